"""The coordinator's open port, attacked over real sockets."""
