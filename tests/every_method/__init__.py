"""Every method in every way that people use optax."""
