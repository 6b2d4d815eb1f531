"""Tests of the worker, and the client and coordinator that they set against it."""
