"""The coordinator: its core driven by events, its broker over real sockets, its disk."""
