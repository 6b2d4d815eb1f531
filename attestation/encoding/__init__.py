"""Bounded, deterministic encodings and labelled digests, for everything signed or hashed."""
