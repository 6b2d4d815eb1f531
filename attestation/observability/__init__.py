"""What operators may see of a process while it runs: numbers, and traces of jobs. Never content."""
