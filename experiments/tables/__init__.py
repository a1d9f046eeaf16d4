"""The tables of the documents, written from the files in results/."""
