"""Tests of rewritten functions: the same numbers, in less time and memory."""
