"""The recipes' mathematics."""
