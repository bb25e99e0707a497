"""Benchmarks and the networks they run; imported by tests, never by the package."""
