"""History, queues and presence that survive: the stores and the write-ahead log."""
