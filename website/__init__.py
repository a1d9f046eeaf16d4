"""What mkdocs needs to make a site of the repository's documents: hooks and styles."""
