"""The node's DRAM: a pool of chunks shared by its processes, who holds which, and whose turn it is to read."""
