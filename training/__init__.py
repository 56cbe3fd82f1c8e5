"""Train checkpoints from corpora, tune and evaluate them, and report metrics."""
