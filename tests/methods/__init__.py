"""Tests of the methods, one file each, and of all against their reference codes."""
