"""How long things will take, learned from what was measured; pure, and shared with the simulator."""
