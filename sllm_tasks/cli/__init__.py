"""The command line `sllm`: a client of the REST API, and the way to start each process."""
