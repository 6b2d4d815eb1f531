"""What a party that runs no enclave needs in order to trust one."""
