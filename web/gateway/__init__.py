"""The gateway serves the page and an HTTP API for browsers, and calls Triton over gRPC."""
