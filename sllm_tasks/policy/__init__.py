"""Decisions as pure functions over frozen records; shared with the simulator."""
