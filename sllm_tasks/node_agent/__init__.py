"""The node agent: keeps a node's checkpoints and does what operations ask of it."""
