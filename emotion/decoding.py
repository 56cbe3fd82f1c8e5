"""Decode an encoded audio file to a mono waveform at 16 kHz, or reject it with the reason.

libsndfile decodes WAV, AIFF, AU and FLAC. FFmpeg (PyAV) decodes everything else, MP3 in WAV, and FLAC whose header has
no length. FFmpeg never probes the format, because some of its formats open other files. `emotion.containers` checks
that a file is complete.
"""

import io
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile
import soxr
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from emotion import sniffing
from emotion.audio import SAMPLE_RATE
from emotion.containers import aiff, matroska, mp4, mpeg, ogg, sizes, vorbis, wav
from emotion.errors import InputError

MAX_SECONDS = 60.0  # longest accepted utterance; IEMOCAP's longest has 34 s
GRACE_S = 1.0  # by which files may be longer, because recorders stop late and encoders add samples
SAMPLE_RATES = (4_000, 384_000)  # Hz, accepted; lower rates lose the speech band, no recorder has higher ones
MAX_SAMPLES = 60 * 384_000  # over all channels: a minute at the highest rate; bounds the cost of decoding
LONG_SAMPLES_PER_S = 2 * 48_000  # the same bound where more than MAX_SECONDS are accepted: stereo at 48 kHz
MAX_PEAK = 8.0  # of floating-point samples: 18 dB over full scale
MAX_PACKET = 1 << 20  # bytes of a compressed packet; an Opus packet has 61,298 at most
MAX_COMPRESSED_CHANNELS = 8  # PyAV 17 to 18 crashes where a frame has more planes
CANCELLED_POWER_RATIO = (
    0.25  # of the mean's power to that of independent channels; below it (-6 dB) the channels cancel out
)
SUSPECT_POWER_RATIO = 1.8  # the same ratio; equal channels have 2 or more, a single active channel has 1
CROSSTALK_POWER_RATIO = 1e-4  # of the other channels to the strongest one; below it (-40 dB) they are silent
ACCEPTED = "WAV, FLAC, MP3, Ogg, M4A or WebM"
# FFmpeg's decoders that may be used
CODECS = {
    *("aac", "alac", "flac", "mp2float", "mp3float", "opus", "vorbis"),
    *("pcm_alaw", "pcm_mulaw", "pcm_s8", "pcm_u8", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be"),
    *("pcm_s32le", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le"),
}
# no decoder runs before the headers are checked, and no other file is opened
_OPEN_OPTIONS = {"codec_whitelist": "none", "protocol_whitelist": "none"}
# FFmpeg's sample formats: numpy's type, and whether each channel has a plane of its own
_DTYPES = {
    kind + suffix: (np.dtype(dtype), bool(suffix))
    for kind, dtype in {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}.items()
    for suffix in ("", "p")
}
_SCALES = {"int16": 2.0**-15, "int32": 2.0**-31}  # of integers, to a full scale of 1


class _Block(NamedTuple):
    """Decoded samples of all channels."""

    samples: NDArray[Any]  # [n, channels], of a type in _SCALES or floating point
    rate: int  # Hz


class _Memory(io.BytesIO):
    """A file in memory that tolerates seeks to invalid positions, which wrong headers lead libsndfile to."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek, or keep the position if the new one is invalid; soundfile would only print an exception and go on."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def decode(data: bytes, max_seconds: float = MAX_SECONDS) -> NDArray[np.float32]:
    """Decode one encoded audio file to a mono waveform at 16 kHz.

    Args:
        data: a whole file: WAV, FLAC, AIFF, AU, MP3, AAC, Ogg, MP4 or WebM; any channel count.
        max_seconds: files that are longer by more than GRACE_S are rejected.

    Returns:
        float32 [n], n >= 1, nominally in [-1, 1]: the mean of the channels, resampled with soxr's HQ filter. Where the
        channels cancel each other out, or only one holds sound, it is the strongest channel instead.

    Raises:
        InputError: not audio, of another format, truncated or damaged, empty, too long, of too many channels for its
            length, an unusable sample rate, samples that are not finite or far over full scale.
    """
    name, blocks = _open(data, max_seconds)
    try:
        parts = [
            _resample(_mix([block.samples for block in part]), rate)
            # rate and channels can change within MP3 and chained Ogg files
            for (rate, *_), part in itertools.groupby(_limited(blocks, max_seconds), _kind)
        ]
    except (av.FFmpegError, soundfile.LibsndfileError) as error:
        raise InputError(f"AUDIO is a truncated or damaged {name} file ({_reason(error)}); send it whole") from None
    waveform = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])
    if waveform.size == 0:
        what = f"a {name} file with zero samples" if not parts else f"shorter than a sample at {SAMPLE_RATE} Hz"
        raise InputError(f"AUDIO is {what}; send more of it, or zero bytes for no audio")
    return waveform


def _open(data: bytes, max_seconds: float) -> tuple[str, Iterator[_Block]]:
    """Detect the format of a file.

    Returns:
        The name of the format, and the samples, which are decoded as they are consumed.

    Raises:
        InputError: the format is not accepted, or the container is damaged.
    """
    sound = (
        data[mpeg.after_id3(data) :] if data.startswith(b"ID3") else data
    )  # some programs put this tag before any format
    if wav.is_wav(sound):
        file = wav.read(sound)
        if file.tag in wav.MPEG_TAGS:
            return "WAV", _decode_mpeg(file.payload, mpeg.mp3_header, max_seconds)
        return "WAV", _decode_with_libsndfile(file.file, "WAV", max_seconds)
    if sound.startswith(b"fLaC"):
        return "FLAC", _decode_flac(sound, max_seconds)
    if sound.startswith(b"OggS"):
        return "Ogg", _decode_ogg(sound)
    if sound.startswith(b"FORM"):
        return "AIFF", _decode_with_libsndfile(aiff.repair_aiff(sound), "AIFF", max_seconds)
    if sound.startswith(b".snd"):
        return "AU", _decode_with_libsndfile(aiff.repair_au(sound), "AU", max_seconds)
    if mp4.is_mp4(sound):
        mp4.check(sound)
        return "MP4", _decode_with_ffmpeg(sound, "mov", "MP4")
    if sound.startswith(matroska.MAGIC):
        matroska.check(sound)
        return "WebM", _decode_with_ffmpeg(sound, "matroska", "WebM")
    what = sniffing.name(sound)
    starts = {header: mpeg.first_frame(data, header) for header in (mpeg.mp3_header, mpeg.adts_header)}
    header, start = min(starts.items(), key=lambda item: len(data) if item[1] is None else item[1])
    if what is None and start is not None:
        return mpeg.NAMES[header], _decode_mpeg(data, header, max_seconds)
    if what is not None:  # some names contain a remedy
        remedy = "" if ";" in what else f", which is not accepted; send {ACCEPTED}"
        raise InputError(f"AUDIO is {what}{remedy}")
    raise InputError(f"AUDIO is not an audio file that can be read ({len(data)} bytes); send a whole {ACCEPTED} file")


def _decode_with_libsndfile(data: bytes, name: str, max_seconds: float) -> Iterator[_Block]:
    try:
        file = soundfile.SoundFile(_Memory(data))
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"AUDIO is a truncated or damaged {name} file, or its coding is not accepted ({_reason(error)}); send it "
            "whole, or send PCM in WAV"
        ) from None
    with file:
        _check_rate(file.samplerate)
        if file.frames > (max_seconds + GRACE_S) * file.samplerate:
            raise InputError(_too_long(f"{file.frames / file.samplerate:.1f}", max_seconds))
        if file.frames * file.channels > _max_samples(max_seconds):
            raise InputError(_too_much(file.frames * file.channels, file.channels, max_seconds))
        # numpy converts integers to the same floats as libsndfile, but faster
        samples = file.read(file.frames, dtype="int16" if file.subtype == "PCM_16" else "float32", always_2d=True)
        if len(samples) < file.frames:
            raise InputError(
                f"AUDIO is a truncated {name} file: its header promises {file.frames} samples, {len(samples)} are "
                "there; send it whole"
            )
        yield _Block(samples, file.samplerate)


def _decode_flac(data: bytes, max_seconds: float) -> Iterator[_Block]:
    """Decode FLAC with libsndfile, or with FFmpeg where the header has no length, which libsndfile needs."""
    if data.find(b"fLaC\0\0\0\x22", 4) >= 0:
        raise InputError("AUDIO is two or more FLAC files joined; send them one at a time")
    fields = int.from_bytes(data[18:26], "big")  # STREAMINFO: 20 bits of rate, 3 of channels, 5 of bits, 36 of samples
    channels, bits, frames = (fields >> 41 & 7) + 1, (fields >> 36 & 31) + 1, fields & (1 << 36) - 1
    # an encoder copies the placeholder of a WAV from a pipe as the length
    if len(data) >= 26 and sizes.is_placeholder(frames * channels * bits // 8):
        return _decode_with_ffmpeg(data, "flac", "FLAC")
    return _decode_with_libsndfile(data, "FLAC", max_seconds)


def _decode_ogg(data: bytes) -> Iterator[_Block]:
    for link in ogg.links(data):
        yield from _decode_with_ffmpeg(link, "ogg", "Ogg")


def _decode_mpeg(data: bytes, header: mpeg.Header, max_seconds: float) -> Iterator[_Block]:
    """Decode MP3 or AAC frame by frame, without the delay and padding that an MP3's header declares."""
    frames, seconds = [], 0.0
    for frame in mpeg.frames(data, header):
        frames.append(frame)
        seconds += frame.samples / frame.rate
        if seconds > max_seconds + GRACE_S + 1:  # rejects long files before decoding
            raise InputError(_too_long(f"over {max_seconds:g}", max_seconds))
    start, end = 0, None
    if frames and header is mpeg.mp3_header and (head := mpeg.gapless(data, frames[0])):
        if head.frames > len(frames):  # some encoders count the header frame
            raise InputError(
                f"AUDIO is a truncated MP3 file: its header promises {head.frames} frames, {len(frames) - 1} are "
                "there; send it whole"
            )
        frames.pop(0)
        start = head.delay + mpeg.DECODER_DELAY if head.is_gapless else 0
        if head.is_gapless and head.frames == len(frames):
            end = sum(frame.samples for frame in frames) - max(0, head.padding - mpeg.DECODER_DELAY)
    decoders = {layer: _decoder(name) for layer, name in mpeg.DECODERS.items()}
    at = 0
    for frame in frames:
        decoded = decoders[frame.layer].decode(av.Packet(data[frame.at : frame.at + frame.size]))
        if not decoded:
            raise InputError(
                f"AUDIO is a damaged {mpeg.NAMES[header]} file: the frame at byte {frame.at} can't be decoded; "
                "send it whole"
            )
        for block in map(_block, decoded):
            # FFmpeg reports the previous rate for the first frame after a change; AAC may double the header's rate
            rate = frame.rate if frame.layer else block.rate
            yield _Block(block.samples[max(0, start - at) : None if end is None else max(0, end - at)], rate)
            at += len(block.samples)


def _decode_with_ffmpeg(data: bytes, container_format: str, name: str) -> Iterator[_Block]:
    """Decode the first stream of sound; `container_format` is FFmpeg's name of the demuxer."""
    with av.open(io.BytesIO(data), "r", container_format, _OPEN_OPTIONS, metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise InputError(f"AUDIO has no sound in it, as far as can be read; send a whole {ACCEPTED} file")
        stream = container.streams.audio[0]
        decoder = stream.codec_context
        if decoder is None or decoder.name not in CODECS:  # None: FFmpeg has no decoder
            coding = decoder.name.upper() if decoder else "sound of an unknown coding"
            raise InputError(f"AUDIO is {coding} in {name}, which is not accepted; send {ACCEPTED}")
        if decoder.name == "vorbis":
            vorbis.check_headers(decoder.extradata or b"")
        if container_format == "mov":
            mp4.check_index(((entry.pos, entry.size) for entry in stream.index_entries), len(data))
        decoder.thread_count = 1
        for packet in container.demux(stream):
            if packet.is_corrupt or packet.size > MAX_PACKET:
                raise InputError(f"AUDIO is a truncated or damaged {name} file (a packet is damaged); send it whole")
            if decoder.name == "vorbis" and bytes(packet)[:1] in vorbis.HEADER_TYPES:
                raise InputError(f"AUDIO is a damaged {name} file: headers follow its sound; encode it again")
            yield from map(_block, packet.decode())


def _decoder(name: str) -> AudioCodecContext:
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, AudioCodecContext)
    return decoder


def _block(frame: AudioFrame) -> _Block:
    channels = frame.layout.nb_channels
    if channels > MAX_COMPRESSED_CHANNELS:
        raise InputError(
            f"AUDIO has {channels} channels; at most {MAX_COMPRESSED_CHANNELS} are accepted in compressed files: mix "
            "it down to one"
        )
    dtype, is_planar = _DTYPES[frame.format.name]
    count = frame.samples if is_planar else frame.samples * channels
    planes = [
        np.frombuffer(memoryview(plane), dtype, count) for plane in frame.planes
    ]  # to_ndarray takes three times as long
    samples = np.stack(planes, axis=1) if len(planes) > 1 else planes[0].reshape(-1, 1 if is_planar else channels)
    if dtype == np.uint8:
        samples = (samples.astype(np.int16) - 128) * np.int16(256)
    return _Block(samples, frame.sample_rate)


def _kind(block: _Block) -> tuple[int, int, str]:
    """Return rate, channels and type, which are equal for blocks that can be joined."""
    return block.rate, block.samples.shape[1], block.samples.dtype.char


def _limited(blocks: Iterator[_Block], max_seconds: float) -> Iterator[_Block]:
    """Yield the blocks that are not empty.

    Raises:
        InputError: the rate, the duration or the number of samples exceeds its limit.
    """
    lengths, samples = Counter[int](), 0  # samples of a channel by rate, since a sum of seconds would be rounded
    for block in blocks:
        _check_rate(block.rate)
        lengths[block.rate] += len(block.samples)
        samples += block.samples.size
        if sum(length / rate for rate, length in lengths.items()) > max_seconds + GRACE_S:
            raise InputError(_too_long(f"over {max_seconds:g}", max_seconds))
        if samples > _max_samples(max_seconds):
            raise InputError(_too_much(samples, block.samples.shape[1], max_seconds))
        if len(block.samples):
            yield block


def _mix(blocks: list[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the mean of the channels, or the strongest channel where the mean would lose speech: float32 [n].

    Channels that are independent and of power p_i each have a mean of the power sum(p_i) / channels^2. A
    mean far below that comes from channels that cancel each other out, such as a balanced microphone's two poles.
    """
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    channels = samples.shape[1]
    scale = np.float32(_SCALES.get(samples.dtype.name, 1.0))
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are rejected in _resample
        if channels == 1:
            return np.multiply(samples[:, 0], scale, dtype=np.float32)
        samples = samples.astype(np.float32, copy=False)
        weights = np.full(channels, scale / channels, np.float32)
        mean: NDArray[np.float32] = np.matmul(samples, weights)  # .mean(axis=1) is slow
        independent = np.vdot(samples, samples) * scale**2 / channels**2
        power = np.vdot(mean, mean)
        if power < SUSPECT_POWER_RATIO * independent:
            powers = np.einsum("nc,nc->c", samples, samples)  # half a millisecond for 3 s of stereo
            strongest = int(powers.argmax())
            others = powers.sum() - powers[strongest]
            if power < CANCELLED_POWER_RATIO * independent or others < CROSSTALK_POWER_RATIO * powers[strongest]:
                return samples[:, strongest] * scale
    return mean


def _resample(waveform: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Return a waveform at SAMPLE_RATE.

    Raises:
        InputError: a sample is not finite, or far over full scale.
    """
    if not np.isfinite(waveform).all():
        raise InputError("AUDIO has samples that are NaN or infinite; every sample must be a finite number")
    peak = float(np.abs(waveform).max())
    if peak > MAX_PEAK:
        raise InputError(
            f"AUDIO has floating-point samples up to {peak:.4g}; full scale is 1.0: divide 16-bit integers by 32768"
        )
    return waveform if rate == SAMPLE_RATE else soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")


def _check_rate(rate: int) -> None:
    if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        raise InputError(
            f"AUDIO has a sample rate of {rate} Hz; {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz are accepted"
        )


def _max_samples(max_seconds: float) -> int:
    """Return the largest number of samples over all channels that is accepted."""
    return MAX_SAMPLES if max_seconds <= MAX_SECONDS else max(MAX_SAMPLES, int(LONG_SAMPLES_PER_S * max_seconds))


def _too_long(seconds: str, max_seconds: float) -> str:
    remedy = "send one utterance at a time" if max_seconds <= MAX_SECONDS else "send it in parts"
    return f"AUDIO lasts {seconds} s; at most {max_seconds:g} s are accepted: {remedy}"


def _too_much(samples: int, channels: int, max_seconds: float) -> str:
    accepted = _max_samples(max_seconds)
    return f"AUDIO has {samples} samples in {channels} channels; at most {accepted} are accepted: mix it down to one"


def _reason(error: av.FFmpegError | soundfile.LibsndfileError) -> str:
    """Return the library's message without prefix and full stop."""
    words = error.strerror if isinstance(error, av.FFmpegError) else error.error_string
    return str(words).removeprefix("Error : ").rstrip(".")
