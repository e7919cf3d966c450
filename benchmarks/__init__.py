"""Benchmarks: `python dev.py bench NAME`. Modules that begin with an underscore are shared."""
