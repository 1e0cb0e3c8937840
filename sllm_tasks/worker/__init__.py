"""The worker: one process per gpu; it loads replicas, runs jobs and reports their tokens."""
