"""The parts of `scripts/bench_load`."""
