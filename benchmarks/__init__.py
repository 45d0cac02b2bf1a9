"""Benchmarks: each script here measures one thing, and prints one line that a person can read."""
