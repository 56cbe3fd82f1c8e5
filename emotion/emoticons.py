"""Replace emoji and emoticons by English words, because the text encoder's vocabulary has no pieces for them.

An emoji becomes its official name (CLDR, from the package `emoji`), or the words of a table here where that name hides
its tone: 😤 is "face with steam from nose". Many entries say "very", because "annoyed" alone hardly changes the
prediction for a calm sentence. Repeated emoji are written once: a row of 😭 becomes "sad and crying".
"""

import re
import unicodedata
from collections.abc import Iterable

from emoji import EMOJI_DATA

_MEANING = {
    # anger
    "😠": "very angry",
    "😡": "very angry",
    "🤬": "very angry swearing",
    "👿": "very angry",
    "💢": "angry",
    "😾": "angry cat",
    "🖕": "fuck you",
    # frustration
    "😤": "very annoyed",
    "😒": "very annoyed",
    "🙄": "very annoyed rolling eyes",
    "😣": "struggling and very annoyed",
    "😖": "struggling and very annoyed",
    "😩": "weary and very annoyed",
    "😫": "tired and very annoyed",
    "🤦": "annoyed facepalm",
    "👎": "disappointed thumbs down",
    # sadness
    "😭": "sad and crying",
    "😢": "sad and crying",
    "😿": "crying cat",
    "😞": "sad and disappointed",
    "😔": "very sad",
    "🙁": "very sad",
    "☹": "very sad",
    "😥": "very sad",
    "😓": "sad and worried",
    "🥺": "sad and pleading",
    "🥲": "smiling with sad tears",
    "💔": "heartbroken",
    # excitement, in which this project counts joy
    "😀": "happy smiling",
    "😃": "happy smiling",
    "😄": "very happy smiling",
    "😁": "happy grinning",
    "😆": "laughing happily",
    "😅": "laughing and relieved",
    "😂": "happy laughing",
    "🤣": "happy laughing",
    "😹": "laughing cat",
    "😊": "happy smiling",
    "☺": "happy smiling",
    "😇": "smiling angel",
    "😍": "very happy and in love",
    "🥰": "very happy and in love",
    "😻": "happy cat in love",
    "😘": "kiss with love",
    "🤩": "excited and amazed",
    "🥳": "excited party",
    "🎉": "hooray celebration",
    "🎊": "hooray celebration",
    "🤗": "happy hug",
    "😎": "cool",
    "🙌": "hooray",
    "👏": "applause",
    "💃": "happy dancing",
    "🕺": "happy dancing",
    "🔥": "awesome",
    # a mixed tone, or none
    "🙂": "smiling",
    "🙃": "ironic smile",
    "😏": "smirking",
    "😋": "yummy",
    "😬": "awkward",
    "🤷": "shrug",
    "🙏": "please, thank you",
    "👌": "okay",
    "🆗": "okay",
    "💯": "absolutely",
} | dict.fromkeys("❤♥❣🧡💛💚💙💜🤎🖤🤍🩷🩵🩶💗💖💓💕💞💘💝💟🫶", "love")
_DRAWN = {"┻━┻": "very angry", "¯\\_(ツ)_/¯": "shrug", "ಠ_ಠ": "annoyed", "ಥ_ಥ": "crying"}


def _character_class(characters: Iterable[str]) -> str:
    """Return a regular expression that matches one of the characters, with as few ranges as possible for speed."""
    ranges: list[list[int]] = []
    for point in sorted(map(ord, characters)):
        if ranges and point == ranges[-1][1] + 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]"


_COMPONENTS = frozenset("🏻🏼🏽🏾🏿🦰🦱🦲🦳")  # of sequences: tones of skin, and hair
# without ©, ® and what NFKC writes in plain characters, such as ‼ and ™
_BASE = _character_class(
    character
    for character in EMOJI_DATA
    if len(character) == 1
    and character > "\u2000"
    and character not in _COMPONENTS
    and unicodedata.is_normalized("NFKC", character)
)
_TAIL = "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"  # variation selectors, tones of skin, tags of flags
_JOINED = f"{_BASE}{_TAIL}(?:\u200d[{_BASE[1:-1]}🦰-🦳]{_TAIL})*"
_ONE = re.compile(f"[\U0001f1e6-\U0001f1ff]{{2}}|{_JOINED}")
_ROW = re.compile(f"(?:(?:{_ONE.pattern})[\\s\u200d\ufe0f]*)+")
_DRAWING = re.compile("|".join(map(re.escape, _DRAWN)))
# quick tests that most texts fail
_MAYBE_EMOJI = re.compile("[\u2190-\u33ff\U0001f000-\U0001ffff]")
_MAYBE_DRAWING = re.compile(_character_class({drawing[0] for drawing in _DRAWN}))
_VARIANTS = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")
_SKIN = re.compile(r" (?:(?:medium-)?(?:dark|light)|medium) skin tone")
_GENDER = re.compile("\u200d[♀♂]")

# What may stand before the first character of an emoticon (each pattern is matched after it), and after the last.
_FIRST = r"(?<!\S.)"
_FREE = r"""(?<![^\s.,!?"'*~()\[\]].)"""
_GLUED = r"(?<![0-9:;=/\\<>.].)"  # letters too, as in "thanks:)"
_END = r"""(?![^\s.,!?"'*~()\[\]:;=<])"""
# "xD" and "-.-" could be left by cleaning too, so whatever cleaning replaces by a space ends them
_ALONE = r"(?<![0-9A-Za-z'\-\x80-\U0010ffff].)"
_ALONE_END = r"(?![0-9A-Za-z'\-\x80-\U0010ffff])"
_NO_NUMBER = r"(?![\w.%'\-\x80-\U0010ffff])"
_EMOTICONS = (
    (rf">{_FREE}[:;=]['^o-]?[(\[<@]+{_END}|[:=]{_FREE}-?@{_END}|D{_FREE}:<+{_END}", "angry"),
    (rf">{_FREE}[:;=]-?[)D]+{_END}", "grinning devil"),
    (rf"[:;=]{_GLUED}[',]-?[(\[]+{_END}|;{_FREE}-?\(+{_END}|[TQ]{_FREE}_+[TQ]{_END}|;{_FREE}[_-]+;{_END}", "crying"),
    (rf"T{_FREE}[.-]T{_END}", "crying"),
    (rf"[:=]{_GLUED}'-?[)D]+{_END}", "happy tears"),
    (rf"(?:[:=]{_GLUED}[\^o-]?\(+)+{_END}|[:=]{_FIRST}[\^-]?[\[{{<c]+(?!\S)|\){_FIRST}-?[:=](?!\S)", "sad"),
    (rf"(?:[:=]{_GLUED}[\^o-]?\)+)+{_END}|[:=]{_FIRST}[\^-]?[\]}}>3]+(?!\S)|\({_FIRST}-?[:=](?!\S)", "smiling"),
    (rf"[:=]{_GLUED}[\^-]?D+{_END}|\^{_FREE}[_.o-]?\^{_END}", "very happy"),
    (rf"[xX]{_ALONE}(?:'D+|[dD]+){_ALONE_END}", "laughing"),
    (rf";{_GLUED}[\^-]?\)+{_END}|;{_FREE}[\^-]?[D\]]{_END}", "winking"),
    (rf"[:=]{_FREE}[\^-]?[/\\]+{_END}", "disappointed"),
    (rf"[:=]{_FREE}[\^-]?\|{_END}", "neutral face"),
    (rf"-{_FREE}_+-{_END}|-{_ALONE}\.-{_ALONE_END}|>{_FREE}[_.]+<{_END}", "annoyed"),
    (rf"[:;=]{_FREE}-?[pP]+{_END}", "playful"),
    (rf"[:=]{_FREE}-?[oO0]{_END}", "surprised"),
    (rf"[:=]{_FREE}-?[sS]{_END}|[oO]{_FREE}_+[oO]{_END}|o{_FREE}\.O{_END}|O{_FREE}\.o{_END}", "confused"),
    (rf"[:;=]{_FREE}-?\*+{_END}", "kiss"),
    (r"D(?<=\sD):(?=\s*\Z|[.!?])", "very upset"),  # not "D: hello", as of a speaker
    (rf"<(?<!<.)3+{_NO_NUMBER}", "love"),
    (rf"<[/\\]3+{_NO_NUMBER}", "heartbroken"),
)
_WORDS = tuple(words for _, words in _EMOTICONS)
# "(see note 3:)" and "(as follows:)" do not end with a smile: they are matched first
_EMOTICON = re.compile(
    r"(?=[():;=<>^DOQTXox-])(?:\([^()]{0,80}[^\s:;()][:;]\)|"
    + "|".join(f"({pattern})" for pattern, _ in _EMOTICONS)
    + ")",
    re.DOTALL,
)
_HINT = re.compile(r"[:;=<>^_]|[xX]['dD]|T[.-]T|-\.-|[oO]\.[oO]")  # quick test that most texts fail


def spell_out_emoji(text: str) -> str:
    """Return a text in which each row of emoji has become the words of its different members, between spaces."""
    if _MAYBE_DRAWING.search(text):
        text = _DRAWING.sub(_words_of_drawing, text)
    return _ROW.sub(_words_of_row, text) if _MAYBE_EMOJI.search(text) else text


def spell_out_emoticons(text: str) -> str:
    """Return a text in which emoticons of ASCII characters have become words, between spaces."""
    return _EMOTICON.sub(_words_of_emoticon, text) if _HINT.search(text) else text


def _words_of_drawing(found: re.Match[str]) -> str:
    return f" {_DRAWN[found[0]]} "


def _words_of_row(row: re.Match[str]) -> str:
    words = dict.fromkeys(_words(sequence) for sequence in _ONE.findall(row[0]))
    return f" {' '.join(words)} "


def _words_of_emoticon(found: re.Match[str]) -> str:
    if found.lastindex:
        return f" {_WORDS[found.lastindex - 1]} "
    return f"({_EMOTICON.sub(_words_of_emoticon, found[0][1:-2])} )"


def _words(sequence: str) -> str:
    """Return the words for one emoji without its skin tone; for a sequence without a name, the words of its parts."""
    bare = _VARIANTS.sub("", sequence)
    if meaning := _MEANING.get(_GENDER.sub("", bare)):
        return meaning
    for name in (bare, sequence):
        if entry := EMOJI_DATA.get(name):
            return _SKIN.sub("", str(entry["en"]).strip(":").replace("_", " "))
    if "\u200d" not in bare:
        return ""
    return " ".join(_words(part) for part in dict.fromkeys(bare.split("\u200d")))
