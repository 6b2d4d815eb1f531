"""Receipts: what a worker signs about a job, and how anybody checks it. No secrets, no clocks."""
