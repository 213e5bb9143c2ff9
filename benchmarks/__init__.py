"""Benchmarks: programs that print JSON, with the floor measured in the same run."""
