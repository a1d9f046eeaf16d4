"""Rewrites traced functions so that XLA compiles them well, in loops as outside of them."""
