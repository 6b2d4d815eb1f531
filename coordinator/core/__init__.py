"""The coordinator's decisions, sans I/O: events in, instructions out."""
