"""Decode uploaded recordings to mono waveforms at 16 kHz with the decoder of the emotion server."""

import numpy as np
from numpy.typing import NDArray

from emotion import decoding
from emotion.errors import InputError
from web.gateway.errors import invalid_input, user_message

ONE_UTTERANCE = "send one utterance at a time"  # the decoder's remedy for long recordings


def decode(data: bytes, max_seconds: float) -> NDArray[np.float32]:
    """Decode one recording.

    Args:
        data: an encoded file of any supported format.
        max_seconds: longest recording accepted, in seconds.

    Returns:
        float32 [n], n >= 1, at 16 kHz.

    Raises:
        ApiError: the recording cannot be used.
    """
    if not data:
        raise invalid_input("The recording is empty.")
    try:
        return decoding.decode(data, max_seconds)
    except InputError as error:
        message = user_message(str(error))
        raise invalid_input(
            message.replace(ONE_UTTERANCE, f"{ONE_UTTERANCE} (/api/utterances finds them in long recordings)")
        ) from None
