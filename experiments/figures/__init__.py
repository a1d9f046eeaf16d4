"""The figures of the paper, one module each, and what they share."""
