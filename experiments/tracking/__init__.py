"""How well the trackers of the dominant eigenvector follow it, and what each costs."""
