"""The paper's comparison of methods, with equal tuning for each and with controls."""
