"""Whose signatures count: certificate chains to pinned roots, and pinned keys."""
