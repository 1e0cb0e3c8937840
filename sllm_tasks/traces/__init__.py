"""The trace lab: arrivals and lengths of requests, generated from published statistics or read from files."""
