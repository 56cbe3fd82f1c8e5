"""The emotion model, defined once: labels, audio and text front-ends, torch modules, checkpoints.

`labels`, `audio` and `text` import no torch, so that the serving image stays small; training and Triton's Python
stages call the very same functions.
"""
