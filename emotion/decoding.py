"""Decode an encoded audio file to a mono waveform at 16 kHz."""

import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from emotion import vorbis
from emotion.audio import SAMPLE_RATE
from emotion.containers import ends_early
from emotion.errors import InputError

MAX_SECONDS = 60.0  # an utterance; IEMOCAP's longest has 34 s
SAMPLE_RATES = (4_000, 384_000)  # Hz accepted; below it there is no speech band left, above it no recorder
MAX_SAMPLES = 60 * 384_000  # over all channels: a minute at the highest rate; what decoding costs at most
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "OGG", "MP3")  # that show where they were cut
MAX_PEAK = 8.0  # peak accepted in floating-point files: 18 dB over full scale
BLOCK = 1 << 20  # samples over all channels that decoding holds at once, so that many channels stay cheap
UNKNOWN_LENGTH = (1 << 63) - 1  # frames that libsndfile reports where a stream's header does not say
MALFORMED = 3  # libsndfile's SF_ERR_MALFORMED_FILE


class _Memory(io.BytesIO):
    """A file that libsndfile may seek in wherever a header's lies lead it."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Stay where it is instead of raising: soundfile would print a traceback and go on."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def decode(data: bytes, max_seconds: float = MAX_SECONDS) -> NDArray[np.float32]:
    """Decode one encoded audio file to a mono waveform at 16 kHz.

    Args:
        data: a whole file in one of FORMATS, any channel count.
        max_seconds: longer files are refused before they are decoded.

    Returns:
        float32 [n], nominally in [-1, 1]: the mean of the channels, resampled with soxr's HQ filter.

    Raises:
        InputError: not audio, of another format, truncated or damaged, empty, too long, of too many channels for its
            length, an unusable sample rate, samples that are not finite or far over full scale.
    """
    if vorbis.IDENTIFICATION in data:
        vorbis.check_headers(data)
    try:
        file = soundfile.SoundFile(_Memory(data))
    except soundfile.LibsndfileError as error:
        what = "a truncated or damaged audio file" if error.code == MALFORMED else "not an audio file that can be read"
        raise InputError(f"AUDIO is {what} ({len(data)} bytes); send a whole WAV, FLAC, OGG or MP3 file") from None
    with file:
        name, rate = file.format, file.samplerate
        if name not in FORMATS:
            raise InputError(f"AUDIO is a file of the format {name}, which is not accepted; send WAV, FLAC, OGG or MP3")
        if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise InputError(
                f"AUDIO has a sample rate of {rate} Hz; {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz are accepted"
            )
        if ends_early(data, file):
            raise InputError(f"AUDIO is a truncated {name} file: its header promises more than it holds; send it whole")
        if file.frames == UNKNOWN_LENGTH:
            raise InputError(
                f"AUDIO is a {name} stream whose header does not say how long it is; "
                "write it to a file rather than a pipe"
            )
        if file.frames > max_seconds * rate:
            raise InputError(_too_long(file.frames / rate, max_seconds))
        if file.frames * file.channels > MAX_SAMPLES:
            raise InputError(_too_much(file.frames * file.channels, file.channels))
        waveform = _read_mono(file, max_seconds)
    if waveform.size == 0:
        raise InputError(f"AUDIO is a {name} file with zero samples; send at least one, or zero bytes for no audio")
    if not np.isfinite(waveform).all():
        raise InputError("AUDIO has samples that are NaN or infinite; every sample must be a finite number")
    peak = float(np.abs(waveform).max())
    if peak > MAX_PEAK:
        raise InputError(
            f"AUDIO has floating-point samples up to {peak:.4g}; full scale is 1.0: divide 16-bit integers by 32768"
        )
    if rate != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")
        if waveform.size == 0:
            raise InputError(
                f"AUDIO is shorter than a sample at {SAMPLE_RATE} Hz; send more of it, or zero bytes for none"
            )
    return waveform


def _read_mono(file: soundfile.SoundFile, max_seconds: float) -> NDArray[np.float32]:
    """Read to the end in blocks and average the channels: float32 [frames]."""
    limit = int(max_seconds * file.samplerate)
    blocks: list[NDArray[np.float32]] = []
    total = 0
    frames = max(1, BLOCK // file.channels)
    # libsndfile turns integers into floats a few thousand at a time; numpy does it at once, and to the same values
    dtype, scale = ("int16", 2.0**-15) if file.subtype == "PCM_16" else ("float32", 1.0)
    mean = np.full(file.channels, scale / file.channels, np.float32)  # a product: .mean(axis=1) is slow
    while True:
        try:
            block = file.read(frames, dtype=dtype, always_2d=True)
        except (soundfile.LibsndfileError, ValueError) as error:  # ValueError: it is behind the end that it told of
            raise InputError(
                f"AUDIO is a truncated or damaged {file.format} file ({_reason(error)} after "
                f"{total / file.samplerate:.2f} s); send it whole"
            ) from None
        if not len(block):
            break
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused afterwards
            blocks.append(block[:, 0] * mean[0] if file.channels == 1 else block.astype(np.float32) @ mean)
        total += len(block)
        if total > limit:  # an MP3's header may promise less than there is
            raise InputError(_too_long(total / file.samplerate, max_seconds))
        if total * file.channels > MAX_SAMPLES:
            raise InputError(_too_much(total * file.channels, file.channels))
    if total < file.frames and file.format != "MP3":  # whose length may be an estimate
        raise InputError(
            f"AUDIO is a truncated {file.format} file: its header promises {file.frames} samples, {total} are there; "
            "send it whole"
        )
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.empty(0, np.float32), *blocks])


def _too_long(seconds: float, max_seconds: float) -> str:
    return f"AUDIO lasts {seconds:.1f} s; at most {max_seconds:g} s are accepted: send one utterance at a time"


def _too_much(samples: int, channels: int) -> str:
    return f"AUDIO has {samples} samples in {channels} channels; at most {MAX_SAMPLES} are accepted: mix it down to one"


def _reason(error: soundfile.LibsndfileError | ValueError) -> str:
    """libsndfile's own words, without its prefix and full stop."""
    words = str(error.error_string) if isinstance(error, soundfile.LibsndfileError) else "it goes on behind its end"
    return words.removeprefix("Error : ").rstrip(".")
