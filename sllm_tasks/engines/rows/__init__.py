"""Decoding by canonical rows: whatever else is in a batch, a token goes through the same arithmetic."""
