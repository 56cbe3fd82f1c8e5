"""Measures the server: load tests, speed beside the machine's limits and other servers, resilience."""
