"""Runs Triton on this machine: finds it, prepares its backends, starts it, waits until it is ready, stops it."""

from serving.triton import Triton, TritonError

__all__ = ["Triton", "TritonError"]
