"""What README and docs say, against the files that it was measured into."""
