"""Benchmarks: throughput of data, scoring and generation."""
