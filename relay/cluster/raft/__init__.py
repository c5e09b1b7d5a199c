"""The Raft consensus algorithm as a machine without I/O, clock or randomness."""
