"""The OpenAI-compatible API under `/v1`: every completion is a job underneath."""
