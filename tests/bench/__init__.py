"""What sealing costs: the whole pipeline against the same pipeline in plaintext (`make bench`)."""
