"""Live migration of running jobs: its states, its rounds and what source and target tell each other."""
