"""Ways to systems beside relay: each a Twisted Service, given to a node by its configuration."""
