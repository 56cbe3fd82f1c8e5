"""Containers of encoded audio: each module tells whether a file is whole, and what its decoder may be given.

Decoders conceal a missing part, and an answer computed from half an utterance looks like any other.
"""
