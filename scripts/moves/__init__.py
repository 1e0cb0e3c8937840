"""What `scripts/bench_migration` measures, a file each: pauses, drains, startups, and what a job that moves keeps."""
