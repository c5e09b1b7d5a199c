"""One thin Protocol and Factory per transport."""
