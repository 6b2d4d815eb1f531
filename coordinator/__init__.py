"""The untrusted dispatcher. It may drop, delay, reorder, replay and lie; it may not read or forge."""
