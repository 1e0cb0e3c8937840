"""The native API: one blueprint per resource, below `/api/v1` except for health."""
