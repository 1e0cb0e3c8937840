"""The admin UI: pages over the functions that the REST views call."""
