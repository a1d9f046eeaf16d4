"""Ways to follow the Hessian's dominant eigenvector, one a file."""
