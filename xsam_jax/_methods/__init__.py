"""The methods, one a file: each turns the gradient into a direction for the base optimizer."""
