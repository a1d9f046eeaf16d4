"""What makes the site of the documents: the hooks, styles and scripts that mkdocs.yml names."""
