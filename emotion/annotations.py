"""Remove annotations of transcribers and markup from a text: [LAUGHTER], <noise>, (laughs), *sighs*, <b>."""

import re

# A bracket that holds only these words, or these and details, is an annotation: (laughs), (door slams), *sighs deeply*.
_SOUND = re.compile(
    r"(?:laugh|laught|chuckl|giggl|snicker|sigh|breath|inhal|exhal|cough|sneez|sniff|sniffl|snort|sob|cry|weep|whimper|whin"
    r"|wail|gasp|groan|moan|grunt|growl|yawn|scream|shout|yell|shriek|whisper|mumbl|mutter|hum|humm|whistl|gulp|hiccup|burp"
    r"|pant|scoff|smack|lipsmack|sing|applau|applaud|clap|clapp|cheer|boo|paus|silenc|nois|sound|beep|buzz|ring|click|slam"
    r"|slamm|knock|bang|bark|rumbl|clear)(?:e|s|es|ed|er|ing|se|ses)?"
    r"|cries|cried|tsk|silent|music|static|thunder|footsteps|lipnoise|inaudible|unintelligible|indistinct|incomprehensible"
    r"|unclear|crosstalk|overlap|overlapping|foreign|garbage"
)
_DETAIL = re.compile(
    r"an?|and|at|in|into|of|on|the|to|with|his|her|their|s?he|they|it|continues|stops|background|distant|playing|audio"
    r"|(?:soft|loud|quiet|nervous|heav|deep|hysterical|bitter|awkward|sad|happ|angr|slight|light|sharp|gent|sarcastic)(?:i?ly|y)?"
    r"|long|short|brief|lips?|throat|nose|voices?|audience|crowd|people|m[ae]n|wom[ae]n|child(?:ren)?|baby|dog|door"
    r"|(?:tele)?phone|bell|alarm|engine|car|traffic|siren|mic(?:rophone)?|keyboard|paper|wind|rain"
    r"|speech|speaking|language|talking|chatter|conversation"
)
# One word in square brackets is an annotation, unless it replaces a name ([NAME]) or completes a quotation ([them]).
_WORD_IN_BRACKETS = re.compile(
    r"name|religion|person|location|place|city|country|organi[sz]ation|company|address|date|email|phone|number|url|user(?:name)?"
    r"|redacted|i|you|s?he|it|we|they|me|him|her|us|them|my|your|his|its|our|their|th[ai][ts]|these|those|an?|the|and|or|not"
    r"|no|yes|is|are|was|were|am|be|been|ha[sd]|have|do|does|did|will|would|can|could|to|of|in|on|at|for"
)
_LINK = re.compile(r"://|@|^www\.", re.IGNORECASE)
_TOKEN = re.compile(r"[\w.:,'/|+-]*[^\W_][\w.:,'/|+-]*")
_WORD = re.compile(r"[^\W\d_][\w'-]*")
_BRACKETS = re.compile(
    r"(?=[<\[({+*_])(?:<(?P<angle>(?:[/|]?[A-Za-z]|!)[^<>]{0,300})>"
    r"|\[ ?(?P<square>[^\[\]]{1,60}?) ?\](?!\()"
    r"|[({](?P<round>[^(){}]{1,60})[)}]"
    r"|(?<![\w+])\+\+(?P<plus>[A-Za-z][^+]{0,60})\+\+"
    r"|(?<![\w*])\*{1,3}(?P<stars>[A-Za-z][^*]{0,60})\*{1,3}(?!\w)"
    r"|(?<![^\W_])_(?P<line>[A-Za-z][^_]{0,60})_(?![^\W_]))"
)
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])((?:[^*]|(?<=\w)\*(?=\w)){1,300})(?<=\S)\1(?!\w)")
_HINT = re.compile(r"[<\[({*_]|\+\+")


def remove_annotations(text: str) -> str:
    """Return a text without annotations and markup; other brackets and emphasised words stay."""
    if not _HINT.search(text):
        return text
    return _EMPHASIS.sub(r" \2 ", _BRACKETS.sub(_replacement, text))


def _replacement(found: re.Match[str]) -> str:
    """Return the replacement of one pair of brackets and its content."""
    kind, content = found.lastgroup, found[found.lastindex or 0].strip()
    words = _WORD.findall(content.lower())
    sounds = [bool(_SOUND.fullmatch(word)) for word in words]
    if any(sounds) and all(sound or _DETAIL.fullmatch(word) for sound, word in zip(sounds, words, strict=True)):
        return " "
    if kind == "square" and _TOKEN.fullmatch(content):
        sound, _, said = content.partition("-")
        if said and _SOUND.fullmatch(sound.lower()):
            return f" {said} "  # Switchboard's [laughter-yes]: a word that was said with laughter
        return f" {content} " if _WORD_IN_BRACKETS.fullmatch(content.lower()) else " "
    if kind == "angle" and not _LINK.search(content):
        is_markup = content[0] == "!" or "=" in content or len(content.rstrip("/").split()) == 1
        return " " if is_markup else found[0]
    return found[0]
