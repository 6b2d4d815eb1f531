"""Parties to test against that do what real ones do: vendors, TPMs, workers."""
