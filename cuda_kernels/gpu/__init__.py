"""Kernels for a GPU, written in numba.cuda; imported by `cuda_kernels.backend` alone, and only when a device asks."""
