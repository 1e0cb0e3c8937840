"""The systems that are compared: each a policy, a loader and habits, with the sources of its settings."""
