"""The `enclave` command: its root, and the subcommands of clients and auditors."""
