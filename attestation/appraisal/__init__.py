"""Decide what Evidence is worth: numbered checks, one result, no verdict that is only a bool."""
