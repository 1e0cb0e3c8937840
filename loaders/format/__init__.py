"""The checkpoint format: its records, and the strict readers of it and of safetensors headers. See docs/format.md."""
