"""The paper's figures, a module each, and what they share."""
