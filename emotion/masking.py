"""Replace masked swear words by the words: "f***", "sh!t", "@sshole"."""

import re
from collections import defaultdict

# Sorted by frequency: a mask that fits several words becomes the first of them.
_SWEAR_WORDS = """
    fuck fucking fucked fucker fuckers fucks fuckin fuckery motherfucker motherfuckers motherfucking clusterfuck
    shit bullshit shitty shits shithead shithole horseshit bitch bitches bitching
    ass asshole assholes asses dumbass jackass badass arse arsehole damn damned goddamn goddamned dammit hell
    dick dicks dickhead cunt cunts crap crappy piss pissed pissing prick pricks pussy bastard bastards
    whore whores slut sluts twat wanker cock bollocks
"""
_UNKNOWN = "fuck"  # replaces a word that is masked completely
_LOOKALIKE = {"@": "a", "$": "s", "!": "i", "1": "i"}
_MASK = "*#@$%&_-"  # each replaces any letter except the first
_BY_FIRST_LETTER = defaultdict[str, list[str]](list)
for _word in _SWEAR_WORDS.split():
    _BY_FIRST_LETTER[_word[0]].append(_word)

_TOKEN = re.compile(r"(?<![0-9A-Za-z\x80-\U0010ffff])(?:[@$](?=[A-Za-z])|[A-Za-z]+[*#@$%&_!1-])[A-Za-z*#@$%&_!1-]*")
_SEPARATOR = re.compile(r"([*@#$%&_]+)")  # between words, where nothing is masked
_HINT = re.compile(r"[*#@$%&]|[A-Za-z][!_1-]+[A-Za-z]|[A-Za-z]__")  # quick test that most texts fail
_MARK = re.compile(r"[*@#$%&\[(]")
# replacements of a whole word in transcripts: [bleep], YouTube's [ __ ], "**** you", "@#$%!"; not rows of stars
_WHOLE = re.compile(
    r"(?=[*@#$%&!^\[(])(?:[\[(] ?(?:__|\*{2,8}|bleep(?:ed)?|expletive(?: deleted)?|censored) ?[\])]"
    r"|(?<![\w*])\*{3,8}(?=ing\b|(?: you| off| this| that| it| him| her| them| up| my| your)\b)"
    r"|(?:(?<=\bthe )|(?<=\byou )|(?<=\bholy )|(?<=\bof ))\*{3,8}(?![\w*])"
    r"|(?<!\S)(?=\S{0,11}[@#$%&])(?:([@#$%&!*^])(?!\1)){4,12}(?!\S))",
    re.IGNORECASE,
)


def replace_bleeps(text: str) -> str:
    """Return a text in which marks that replace a whole swear word are replaced by one."""
    return _WHOLE.sub(_UNKNOWN, text) if _MARK.search(text) else text


def unmask(text: str) -> str:
    """Return a text with masked swear words restored, and without `*` inside other words."""
    return _TOKEN.sub(_unmasked, text) if _HINT.search(text) else text


def _unmasked(found: re.Match[str]) -> str:
    token = found[0]
    following = found.string[found.end() : found.end() + 1]
    if following.isdigit() or not following.isascii():  # the word continues
        *parts, last = _SEPARATOR.split(token)
        return "".join(_TOKEN.sub(_unmasked, part) for part in parts) + last
    body = token.rstrip("!-")
    joined = body.replace("*", "") if sum(map(str.isalpha, body)) >= 3 else body  # 2*a*b is no word
    word = _swear_word(body.lower()) or _swear_word(joined.lower())
    if word is None and _SEPARATOR.search(joined):
        word = "".join(_TOKEN.sub(_unmasked, part) for part in _SEPARATOR.split(joined))
    return (word or joined) + token[len(body) :]


def _swear_word(token: str) -> str | None:
    """Return the swear word that a masked token replaces, or None.

    Each masking character replaces one letter, or a run of `*` any number of letters.
    """
    plain = token.rstrip(_MASK)
    letters = sum(map(str.isalpha, token))
    if not letters or token.isalpha() or (token != plain and letters < 3 and len(token) - len(plain) < 2):
        return None
    candidates = _BY_FIRST_LETTER.get(_LOOKALIKE.get(token[0], token[0]), [])
    if plain in candidates:
        return plain  # "hell**" is emphasis
    for word in candidates:
        if len(word) == len(token) and _fits(token, word):
            return word
    start, star, end = token.partition("*")
    end = end.lstrip("*")
    if star and (start + end).isalpha() and letters >= (2 if end else 3):
        return next((word for word in candidates if word.startswith(start) and word.endswith(end)), None)
    return None


def _fits(token: str, word: str) -> bool:
    mask = _MASK if len(word) > 3 else "*"  # a-s, a&s and the like are no swear words
    return all(
        character == letter or _LOOKALIKE.get(character) == letter or (place > 0 and character in mask)
        for place, (character, letter) in enumerate(zip(token, word, strict=True))
    )
