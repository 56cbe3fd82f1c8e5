"""Measures what is served: load tests, the machine's roofline, what users would run instead, and tuning."""
