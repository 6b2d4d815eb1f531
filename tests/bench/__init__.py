"""What protecting costs, and how ours compares with what one would pick instead (`make bench`)."""
