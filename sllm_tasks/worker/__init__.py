"""The worker process: owns one gpu, loads replicas, runs their jobs."""
