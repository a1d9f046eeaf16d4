"""Tests of what the compiler is told: the same numbers, in less time and memory."""
