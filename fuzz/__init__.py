"""Coverage-guided fuzzing of the decoders of untrusted bytes: `python -m fuzz` (see README.md)."""
