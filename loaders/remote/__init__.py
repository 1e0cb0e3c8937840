"""Checkpoints somewhere else: behind a URL, fetched by ranges onto the SSD, into the pool, or into both at once."""
