"""What `scripts/bench_migration` measures, a file each: pauses, drains, and what a job that moves keeps."""
