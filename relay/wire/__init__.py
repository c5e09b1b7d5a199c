"""The ground of the protocol: frames, messages, body codecs, transfer filters and the handshake; no I/O."""
