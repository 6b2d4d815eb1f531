"""G10: what is left of a job in a worker's memory."""
