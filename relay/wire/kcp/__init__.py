"""KCP: reliable streams over datagrams, with error correction, encryption and multiplexing; no I/O, clock or chance."""
