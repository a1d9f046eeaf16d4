"""Many runs, in processes of their own, and the file that keeps their results."""
