"""What the official `openai` package must be able to do against a running cluster, one check after the other."""
