"""Which learning rate suits a method, for each schedule and base optimizer."""
