"""Checkpoints of other nodes, read from their agents."""
