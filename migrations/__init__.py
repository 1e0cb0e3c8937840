"""Schema revisions of the ledger; a package, so that an installed wheel finds them."""
