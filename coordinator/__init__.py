"""The untrusted dispatcher: may drop, delay, reorder, replay and lie; may not read or forge."""
