"""Run Triton on this machine: find it, prepare its backends, start it, wait until it is ready, and stop it."""

from serving.triton import Triton, TritonError

__all__ = ["Triton", "TritonError"]
