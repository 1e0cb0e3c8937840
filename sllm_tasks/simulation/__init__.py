"""A cluster in discrete events: the router's own policy and estimators, and the baselines they are compared with."""
