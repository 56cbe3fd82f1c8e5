"""Export a checkpoint as ONNX files into a model repository, if they pass a comparison with the PyTorch model."""
