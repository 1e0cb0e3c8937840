"""The SQL ledger: jobs, inventory, operations, keys and audit. A job is accepted and ends only here."""
