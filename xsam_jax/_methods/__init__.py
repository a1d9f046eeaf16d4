"""The methods, one a file: what each does between the gradient and the base optimizer."""
