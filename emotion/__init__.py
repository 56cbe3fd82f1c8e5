"""The emotion model: labels, audio and text front-ends, torch modules, checkpoints.

Training and Triton's Python stages call the same front-end functions. The front-ends import no torch, which keeps the
serving images small.
"""
