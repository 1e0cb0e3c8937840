"""Numeric kernels, each with a NumPy reference and a path that needs no GPU."""
