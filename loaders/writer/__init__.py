"""Write checkpoints from safetensors directories or state dicts: streamed, resumable, published whole or not at all."""
