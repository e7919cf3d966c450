"""Benchmarks: `python dev.py bench NAME`. Modules with a command of their own are benchmarks; the others help them."""
