"""Sessions, users, channels, procedures and the router between them; no transports."""
