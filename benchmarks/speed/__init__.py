"""Benchmarks of time and memory, on full-size models with random weights."""
