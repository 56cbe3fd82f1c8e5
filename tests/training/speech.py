"""Synthesise speech with eSpeak NG, whose library and data come with the package espeakng-loader."""

import _ctypes
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

# From espeak-ng/speak_lib.h
SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, and the call returns after the last
DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report missing data rather than end the process
UTF8 = 1  # espeakCHARS_UTF8
CHARACTERS = 1  # POS_CHARACTER: what a start position counts
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4  # espeak_PARAMETER

_Samples = ctypes.POINTER(ctypes.c_short)
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, _Samples, ctypes.c_int, ctypes.c_void_p)


def synthesise(
    text: str, voice: str, rate: int, pitch: int, pitch_range: int, volume: int
) -> tuple[NDArray[np.float32], int]:
    """Return the speech of a text. The same arguments always give the same samples.

    Args:
        text: the text to speak.
        voice: an eSpeak NG voice, optionally with a variant: "en-us+f3".
        rate: words a minute, 80 to 450; 175 is usual.
        pitch: base pitch relative to the voice's own, 0 to 100; 50 is usual.
        pitch_range: how lively the melody is, 0 (monotone) to 100; 50 is usual.
        volume: 0 to 200; 100 is usual.

    Returns:
        The waveform, float32 [n] in [-1, 1], and its sample rate in Hz.

    Raises:
        RuntimeError: eSpeak NG fails, for example because it lacks the language. It ignores an unknown variant.
    """
    blocks: list[NDArray[np.int16]] = []

    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int) -> int:
        if samples and count:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())  # eSpeak NG reuses the buffer
        return 0  # continue

    callback = _Callback(receive)  # held here: the library keeps no reference
    with _library() as espeak:
        sample_rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), DONT_EXIT)
        if sample_rate <= 0:
            raise RuntimeError("eSpeak NG did not start; is espeakng-loader installed whole?")
        espeak.espeak_ng_SetRandSeed(ctypes.c_long(1))  # seed of breath and roughness; by default the time
        espeak.espeak_SetSynthCallback(callback)
        if espeak.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice!r}")
        for parameter, value in ((RATE, rate), (VOLUME, volume), (PITCH, pitch), (RANGE, pitch_range)):
            espeak.espeak_SetParameter(parameter, value, 0)
        data = ctypes.create_string_buffer(text.encode())
        if espeak.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, CHARACTERS, 0, UTF8, None, None):
            raise RuntimeError(f"eSpeak NG could not speak {text!r}")
    return np.concatenate(blocks).astype(np.float32) / np.float32(32768), sample_rate


@contextmanager
def _library() -> Iterator[ctypes.CDLL]:
    """Load the library for one call: unloading clears the oscillators' state, which espeak_Terminate keeps."""
    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        yield espeak
    finally:
        espeak.espeak_Terminate()
        _ctypes.dlclose(espeak._handle)
