"""One module per wire protocol: machines from bytes to messages and back; no I/O."""
