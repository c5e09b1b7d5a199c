"""relay: a real-time messaging server."""
