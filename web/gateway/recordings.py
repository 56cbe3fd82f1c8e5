"""What browsers and people's phones record -> a mono waveform at 16 kHz, by the decoder that is served."""

import numpy as np
from numpy.typing import NDArray

from emotion import decoding
from emotion.errors import InputError
from web.gateway.errors import for_people, unusable


def decode(data: bytes, max_seconds: float) -> NDArray[np.float32]:
    """Decode one recording.

    Returns:
        float32 [n], n >= 1, at 16 kHz.

    Raises:
        Failure: the recording can't be used; the message says why.
    """
    if not data:
        raise unusable("The recording is empty.")
    try:
        return decoding.decode(data, max_seconds)
    except InputError as error:
        raise unusable(for_people(str(error))) from None
