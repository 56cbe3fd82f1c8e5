"""Store corrections of answers, with the consent of the people who send them, as a manifest that training reads."""

import errno
import io
import json
import os
import threading
import uuid
from pathlib import Path

import numpy as np
import soundfile
from emotion_client import EMOTIONS
from numpy.typing import NDArray

from emotion.audio import SAMPLE_RATE
from emotion.loudness import find_sound
from web.gateway.errors import ApiError, invalid_input
from web.gateway.recordings import decode

MANIFEST = "manifest.jsonl"  # read by `python -m training ... --corpus manifest`
PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600  # voices are personal data


class FeedbackStore:
    """A directory with a manifest, and the recordings in the folder `audio` beside it.

    Each line of the manifest has `id`, `emotion`, and `audio`, `text` or both.
    """

    def __init__(self, directory: Path, max_bytes: int, max_seconds: float) -> None:
        """Use a directory, which is created with the first correction.

        Args:
            directory: where to store the corrections.
            max_bytes: size of the recordings at which no more are accepted.
            max_seconds: longest recording accepted, in seconds.
        """
        self._directory, self._max_bytes, self._max_seconds = directory, max_bytes, max_seconds
        self._lock = threading.Lock()

    def add(self, emotion: str, consent: str, text: str, recording: bytes | None) -> str:
        """Store a correction.

        Args:
            emotion: the emotion that is right.
            consent: "yes" if the sender agrees to the storage.
            text: what was said; empty if it is not known.
            recording: an encoded file, or None.

        Returns:
            Its id, which names its recording and its line of the manifest.

        Raises:
            ApiError: something is missing or can't be used, or the directory is full or can't be written.
        """
        text = text.strip()
        if emotion not in EMOTIONS:
            raise invalid_input(f"The emotion {emotion[:50]!r} is unknown; send one of {', '.join(EMOTIONS)}.")
        if consent != "yes":
            raise invalid_input("Feedback is stored only with consent: send consent=yes, or do not send it.")
        if recording is None and not text:
            raise invalid_input("There is neither a recording nor a text: send one of them, or both.")
        waveform = None if recording is None else decode(recording, self._max_seconds)
        if waveform is not None and find_sound(waveform) is None:
            raise ApiError(400, "no_speech", "The recording has no sound, so it is not stored.")
        name = uuid.uuid4().hex
        entry = {"id": name, "emotion": emotion} | ({"text": text} if text else {})
        with self._lock:
            try:
                self._directory.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
                if waveform is None:
                    self._append(entry)
                else:
                    self._store(entry | {"audio": f"audio/{name}.flac"}, to_flac(waveform))
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise ApiError(500, "fault", f"The feedback could not be stored ({reason}).") from None
        return name

    def _store(self, entry: dict[str, str], audio: bytes) -> None:
        """Write a recording, and then its line; if either fails, nothing is left."""
        path = self._directory / entry["audio"]
        path.parent.mkdir(PRIVATE_DIRECTORY, exist_ok=True)
        if sum(file.stat().st_size for file in path.parent.iterdir()) + len(audio) > self._max_bytes:
            raise ApiError(503, "full", "This service takes no more recordings: its space for them is used up.")
        try:
            with open(path, "xb", opener=_open_private) as file:
                file.write(audio)
            self._append(entry)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def _append(self, entry: dict[str, str]) -> None:
        """Add a line to the manifest, whole or not at all."""
        line = f"{json.dumps(entry, ensure_ascii=False)}\n".encode()
        with open(self._directory / MANIFEST, "ab", buffering=0, opener=_open_private) as file:
            size = file.tell()
            if file.write(line) < len(line):  # the disk is full
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def to_flac(waveform: NDArray[np.float32]) -> bytes:
    """Return a waveform [n] at 16 kHz as a FLAC file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)
