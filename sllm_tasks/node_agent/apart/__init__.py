"""Work on checkpoints in processes of its own: torch stays out of the agent, and what a checkpoint breaks is not it."""
