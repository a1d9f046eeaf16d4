"""What mkdocs needs to make the site of the repository's documents: hooks, styles, one extension."""
