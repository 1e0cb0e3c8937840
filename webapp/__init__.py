"""The web process: native REST API and job event streams over the ledger and the live state; never a model."""
