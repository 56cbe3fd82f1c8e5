"""Name the format of data that is not accepted as audio, for the error message."""

import base64
import binascii
import re

# magic numbers at the beginning of a file, and the name of its format
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"#!AMR", "AMR, a format of phones"),
    (b"caff", "CAF, Apple's Core Audio Format"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA, or another file in Microsoft's ASF"),
    (b"FLV", "a Flash video"),
    (b".RMF", "RealMedia"),
    (b"wvpk", "WavPack"),
    (b"MAC ", "Monkey's Audio"),
    (b"MPCK", "Musepack"),
    (b"MP+", "Musepack"),
    (b"TTA1", "TTA"),
    (b"DSD ", "DSD"),
    (b"MThd", "MIDI, which holds notes rather than sound"),
    (b"NIST_1A", "NIST SPHERE"),
    (b"Creative Voice File", "a Creative Voice file"),
    (b"\x00\x00\x01\xba", "an MPEG video"),
    (b"\x00\x00\x01\xb3", "an MPEG video"),
    (b"ADIF", "AAC in ADIF"),
    (b"\x0b\x77", "AC-3 (Dolby Digital)"),
    (b"\x93NUMPY", "a NumPy array; send its samples as a WAV file"),
    (b"\x80\x04\x95", "a pickled Python object"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"BZh", "bzip2-compressed data"),
    (b"\xfd7zXZ", "xz-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
)
_RIFF = {b"AVI ": "an AVI video", b"WEBP": "a WebP image", b"RMID": "MIDI, which holds notes rather than sound"}
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_HEX = re.compile(rb"(?:0x)?(?:[0-9A-Fa-f]{2})+")
_PATH = re.compile(r"(?:\S+://\S+|(?:[\w.~-]+:)?[\w ./\\~-]*\.\w{2,4})")
MIN_ENCODED_CHARACTERS = 64  # shorter texts are ambiguous
_TRANSPORT_STREAM = (0, 188, 376)  # offsets at which packets of MPEG-TS begin, each with the letter G


def name(data: bytes) -> str | None:
    """Return the name of a format in words that follow "AUDIO is", or None if it is unknown.

    Accepted audio formats are not recognised.
    """
    for magic, words in _MAGIC:
        if data.startswith(magic):
            return words
    if data[:4] == b"RIFF" and data[8:12] in _RIFF:
        return _RIFF[data[8:12]]
    if len(data) > _TRANSPORT_STREAM[-1] and all(data[at] == 0x47 for at in _TRANSPORT_STREAM):
        return "an MPEG transport stream"
    return _name_text(data)


def _name_text(data: bytes) -> str | None:
    """Return the name of textual data, such as audio encoded as base64; None if it is not text."""
    head = data[:4096].removeprefix(b"\xef\xbb\xbf").strip()
    if not head:
        return None
    if re.match(rb"data:[\w./+-]*[;,]", head):
        return "a data URL; send the decoded bytes: decode the part after its comma from base64"
    if re.match(rb"(?i)<(?:!doctype|html|head|body)", head):
        return "an HTML page, perhaps the error page of a download; send the audio file itself"
    if head.startswith((b"<?xml", b"<")):
        return "XML or HTML; send the audio file itself"
    if re.match(rb"b['\"]", head):
        return "Python's text form of bytes; send the bytes themselves"
    words = b"".join(head.strip(b"\"'").splitlines())
    if len(words) >= MIN_ENCODED_CHARACTERS and _HEX.fullmatch(words[: len(words) // 2 * 2]):
        return "hexadecimal text; send the decoded bytes"
    if _BASE64.fullmatch(words) and (kind := _encoded_file(words)) is not None:
        return f"base64 text of {kind}; send the decoded bytes"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data" or error.start < len(head) - 4:
            return None
        text = head[: error.start].decode("utf-8")
    if not all(character.isprintable() or character in "\t\r\n" for character in text):
        return None
    if text[:1] in "{[":
        return "JSON; send the bytes of the audio file itself"
    if _PATH.fullmatch(text):
        return "the name of a file or its address; send the bytes of the file itself"
    return "text, not an audio file; send the bytes of one, or the text as TEXT"


def _encoded_file(words: bytes) -> str | None:
    """Return the name of the file that base64 text encodes, or None if the text could also be words."""
    try:
        head = base64.b64decode(words[: min(64, len(words) // 4 * 4)].replace(b"-", b"+").replace(b"_", b"/"))
    except binascii.Error:
        head = b""
    for magic, kind in (
        (b"RIFF", "WAV"),
        (b"fLaC", "FLAC"),
        (b"OggS", "Ogg"),
        (b"ID3", "MP3"),
        (b"\x1aE\xdf\xa3", "WebM"),
    ):
        if head.startswith(magic):
            return f"a {kind} file"
    if head[4:8] == b"ftyp":
        return "an MP4 file"
    return "a file" if len(words) >= MIN_ENCODED_CHARACTERS else None
