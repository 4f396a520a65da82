"""Measurements: run each with `python -m benchmarks.<name>`; none is part of the test suite."""
