"""Tests of README and docs: their tables are current and their examples run."""
