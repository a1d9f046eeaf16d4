"""Data sets and where they are read from."""
