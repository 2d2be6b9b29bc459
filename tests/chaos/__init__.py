"""Chaos: real processes under load, killed, stopped, cut off and set back; then the books are compared."""
