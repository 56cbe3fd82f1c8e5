"""HTTP for browsers in front of the gRPC server: takes what they record, and serves the page."""
