"""Keys and plaintext: sealed tensors, content keys and session keys. Client and enclave only."""
