"""Messages and sessions: what travels, in which order, and what each side may do next."""
