"""What a user could pick instead, each in an environment of its own, timed as our client is.

python -m tests.bench.peers install [NAME ...]
"""
