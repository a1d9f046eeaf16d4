"""Tests of the trackers of the dominant eigenvector."""
