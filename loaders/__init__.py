"""Checkpoints: what is in a directory, and its tensors on a device. Knows nothing of jobs, queues or state."""
