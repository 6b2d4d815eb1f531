"""Faults put in on purpose: crashes, full disks, lost messages, stopped peers, jumping clocks."""
