"""Check containers of encoded audio before decoding: files must be complete, and their headers safe for the decoder.

Decoders accept truncated files without an error, and a prediction for half an utterance looks like any other.
"""
