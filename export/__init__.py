"""Checkpoint -> ONNX -> model repository, behind a gate that holds the graphs to the PyTorch model."""
