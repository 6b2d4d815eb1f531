"""Tests of the kernels, and the cases that the GPU tests run again."""
