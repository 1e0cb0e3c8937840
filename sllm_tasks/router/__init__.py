"""The router: one leader decides where waiting jobs run."""
