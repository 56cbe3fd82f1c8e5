"""Sends a workload to a server with Locust, and samples what the server does meanwhile."""
