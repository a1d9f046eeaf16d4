"""The site's own code."""
