"""From files to memory: what is read where, by whom, and whether it is right."""
