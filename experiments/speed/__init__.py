"""Cost of a step of every method, in time and memory, relative to SAM in optax."""
