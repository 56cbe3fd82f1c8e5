"""Code that runs inside the processes of Triton's Python backend.

It imports `emotion` and the packages that a stage needs, never the launcher (`serving`): an NVIDIA image that runs the
stages needs nothing else.
"""
