"""The paper's comparison of methods, with controls."""
