"""Measure smoothl1 beside what a user would pick instead: ``python -m benchmarks --help``."""
