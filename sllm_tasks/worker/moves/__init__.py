"""The worker's two sides of a live migration: source and target."""
