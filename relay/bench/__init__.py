"""``relay bench``: measure a node with a load generator that is not the limit."""
