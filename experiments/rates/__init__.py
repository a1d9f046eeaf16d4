"""Which learning rate suits a method, by its schedule and its base optimizer."""
