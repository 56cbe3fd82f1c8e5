"""Code that runs inside the processes of Triton's Python backend.

It imports `emotion` and the packages that a stage needs, and never the launcher (`serving`), so that an NVIDIA image
needs nothing else to run the stages.
"""
