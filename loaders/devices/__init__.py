"""Where tensors live: the memory of the CPU, or that of a GPU."""
