"""A Twisted reactor over uvloop's native transports."""
