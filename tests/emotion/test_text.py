"""Test cleaning and tokenisation of texts."""

import re
import time

import emoji
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from emotion.checkpoint import Checkpoint
from emotion.errors import InputError
from emotion.text import MAX_BYTES, WordPiece, clean, decode


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("He was not an ill-disposed young man,", "he was not an ill-disposed young man,"),
        ("  WHAT?!\t\n No… ", "what?! no..."),
        ("Don\u2019t \u201cpanic\u201d", "don't panic"),
        ("\uff26\uff55\uff4c\uff4c width", "full width"),
        ("z\u0336\u0321alg\u0334o", "zalgo"),
        ("\u1105\u0356\u1162", "\ub798"),  # jamo with a mark between them still form a syllable
        ("Привет, 42", "привет, 42"),
        ("No!!!!!!!! What?!?!?!?! Well......", "no!!! what?!?! well..."),
        ("...!?", ""),
        ("   ", ""),
        ("", ""),
    ],
)
def test_clean_of_plain_text_keeps_words_and_expressive_punctuation(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("I'm fine 😡", "i'm fine very angry"),
        ("I'm fine 😭", "i'm fine sad and crying"),
        ("I'm fine 🙂", "i'm fine smiling"),
        ("😭", "sad and crying"),
        ("fine😤.", "fine very annoyed ."),
        ("😭😭😭 😭\ufe0f 😡😭", "sad and crying very angry"),  # each meaning once for a row of emoji
        ("😂 no 😂", "happy laughing no happy laughing"),
        ("❤️ ❤ 💙", "love"),
        ("👍🏽👍🏿 👍", "thumbs up"),
        ("🤷🏽\u200d♀️ 🤦\u200d♂️", "shrug annoyed facepalm"),
        ("👩🏽\u200d💻 ❤️\u200d🔥 😮\u200d💨", "woman technologist heart on fire face exhaling"),
        ("🧑🏿\u200d❤️\u200d🧑🏻", "couple with heart person person"),
        ("👨\u200d🚀\u200d🦀 ok", "man rocket crab ok"),  # no such emoji
        ("🇩🇪 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 🇽🇽", "germany england"),
        ("1️⃣ #️⃣ ‼️ ™ ©", "1 !! tm"),
        ("📅 at nine", "calendar at nine"),
        ("ಠ_ಠ (╯°□°)╯︵ ┻━┻ ¯\\_(ツ)_/¯", "annoyed very angry shrug"),
    ],
)
def test_clean_replaces_emoji_by_words(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


def test_clean_knows_every_emoji() -> None:
    spelled = {name: clean(name) for name in emoji.EMOJI_DATA if name[0] > "\u2000"}
    assert len(spelled) > 5000
    marks = {"‼", "⁉", "‼️", "⁉️", "™", "™️"}
    unknown = [name for name, words in spelled.items() if not words and name not in marks | set("🏻🏼🏽🏾🏿🦰🦱🦲🦳")]
    assert unknown == []
    assert not [words for words in spelled.values() if "skin tone" in words or "\u200d" in words]


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        (":(", "sad"),
        ("<3", "love"),
        ("ok :-( ok", "ok sad ok"),
        ("no :'( and :((((", "no crying and sad"),
        ("thanks:) :D", "thanks smiling very happy"),
        ("thanks :-)), (love you :)", "thanks smiling , love you smiling"),
        ("so funny xD XDDD", "so funny laughing laughing"),
        (">:( D:< oh no D:", "angry angry oh no very upset"),
        (
            "</3 ;) ^^ T_T -_- :-/ :| :P :o",
            "heartbroken winking very happy crying annoyed disappointed neutral face playful surprised",
        ),
        ("&lt;3", "love"),
    ],
)
def test_clean_replaces_emoticons_by_words(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    "raw",
    [
        "at 10:30, 3:0",
        "(see note 3:)",
        "(as follows:) yes",
        "http://example.com/a",
        "std::D std::p x::o",
        "D: hello",
        "x <3% y <30",
        "a ratio 1:(2+3)",
        '{"a":{"b":[1]}}',
        "C:\\D: |:-|:-|",
        "n^2 x_1 max() foo(bar) a=b; c",
        "the xdr box",
    ],
)
def test_clean_of_text_that_resembles_an_emoticon_adds_no_words(raw: str) -> None:
    assert clean(raw) == " ".join(re.sub(r"[^\w\s.,!?'-]|_", " ", raw.lower()).split())


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("f*** you", "fuck you"),
        ("this is bullsh*t", "this is bullshit"),
        ("What the F**K is wrong with you?!", "what the fuck is wrong with you?!"),
        ("you b*tch, you a**hole, a$$, @sshole, $hit", "you bitch, you asshole, ass, asshole, shit"),
        ("sh!t sh1t f@ck f#ck f_ck f__k f-ck s--t d*mn", "shit shit fuck fuck fuck fuck fuck shit damn"),
        ("f***ing motherf***er, f*****g bulls**t", "fucking motherfucker, fucking bullshit"),
        ("**** you and the ****ing [bleep] of it [ __ ] @#$%!", "fuck you and the fucking fuck of it fuck fuck"),
        ("wtf", "wtf"),
        ("k*ll, h*llo", "kll, hllo"),
        ("*really* **the one who** ***no***", "really the one who no"),
        ("**f*ck** hell**", "fuck hell"),
        ("2*3 a*b e-mail@host #hashtag $5 US$5 AT&T C# a_b R&D", "2 3 a b e-mail host hashtag 5 us 5 at t c a b r d"),
        ("t-t-that ill-disposed covid-19 word* he* as* she-it", "t-t-that ill-disposed covid-19 word he as she-it"),
        ("rated ***** by all ***", "rated by all"),
        ("ass-ess d-day 9-11", "ass-ess d-day 9-11"),
    ],
)
def test_clean_restores_masked_words(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("[LAUGHTER] I hate you", "i hate you"),
        ("I [BREATHING] hate ++LIPSMACK++ you [GARBAGE]", "i hate you"),
        ("<noise> yes <sil> <unk/> <|nospeech|>", "yes"),
        ("(laughs) no (Laughing nervously) {breath} *sighs* _sobs_", "no"),
        ("((coughs)) (clears throat) [door slams] [MUSIC PLAYING]", ""),
        ("[laughter-yes] of course", "yes of course"),
        ("<b>I</b> <i class='x'>do</i><br/> <!-- not -->", "i do"),
        ("(I think so) (laughing at you)", "i think so laughing at you"),
        ("she was crying, *she* laughs", "she was crying, she laughs"),
        ("[NAME] is [RELIGION] and I told [them]", "name is religion and i told them"),
        ("[Here you go] [a link](x) [deleted]", "here you go a link x"),
        ("1 < 2 and 3 > 2 <https://a.b> <x@y.z>", "1 2 and 3 2 https a.b x y.z"),
        ("[LAUGHTER]", ""),
    ],
)
def test_clean_removes_annotations(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("I can&#39;t believe it", "i can't believe it"),
        ("I can&amp;#39;t, can&#39t, can&#x27;t", "i can't, can't, can't"),
        (
            "so&nbsp;good &amp; AT&T &unknown; &#99999999999999999999999; &",
            "so good at t unknown 99999999999999999999999",
        ),
        ("emo\u00adtion", "emotion"),
        ("x\u202e\u200by\ufeff \u2066z\u2069", "xy z"),
        (
            "don`t don\u00b4t don\u02bct don\uff07t don\u2032t it\u00e2\u20ac\u2122s",
            "don't don't don't don't don't it's",
        ),
        ("मैं बहुत खुश हूँ", "मैं बहुत खुश हूँ"),
        ("นี่ดีมาก שָׁלוֹם مَرْحَبًا தமிழ்", "นี่ดีมาก שָׁלוֹם مَرْحَبًا தமிழ்"),
        ("cafe\u0301 naïve Ёлка İstanbul", "caf\u00e9 naïve ёлка istanbul"),
        ("a\u0941 \u0941", "a\u0941"),  # a mark without a letter before it is removed
        ("\u3164\uffa0", ""),  # Hangul fillers are invisible letters
    ],
)
def test_clean_decodes_entities_and_removes_format_characters_and_marks(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


# repeated pieces on which a regular expression could need quadratic time
@pytest.mark.parametrize(
    "piece", ["*", "([{<", "[a", "<a ", "*a", "&#", "&amp;", ":(", "(a:", "f*", "f*k ", "@#", "a_", "D:", "😭 "]
)
def test_clean_takes_linear_time(piece: str) -> None:
    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        start = time.process_time()
        clean(text)
        return time.process_time() - start

    short, long = (min(seconds(length) for _ in range(3)) for length in (8_000, 64_000))
    assert long < 24 * short + 0.05  # 8 times as long; 64 times the time if it were quadratic


PIECES = [
    *"abcdhkpstuxfDOTX .,!?'-_*#@$%&;:()[]{}<>/|^~+=135\n",
    "f*ck",
    "&#39;",
    "&lt;",
    "(sighs)",
    "😭",
    "\u0301",
    "म",
    "\u0941",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@settings(max_examples=500, deadline=None, database=None, derandomize=True)
def test_clean_of_cleaned_text_is_the_identity(raw: str) -> None:
    cleaned = clean(raw)
    assert clean(cleaned) == cleaned
    assert len(cleaned) <= 18 * len(raw)  # a replacement is a few words long


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "not valid UTF-8 (byte 0xe9 at position 3)"),
        (b"\xed\xa0\x80", "not valid UTF-8"),
        (b"a\0b", "NUL character at position 1"),
        (b"a" * 1_000_000, f"1000000 bytes; at most {MAX_BYTES}"),
    ],
)
def test_decode_of_unusable_text_is_rejected(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match="TEXT") as caught:
        decode(data)
    assert reason in str(caught.value)


def test_encode_returns_the_tokenizers_ids_without_padding_or_truncation(checkpoint: Checkpoint) -> None:
    word_piece = WordPiece(checkpoint.tokenizer)
    ids = word_piece.encode("he was not an ill-disposed young man,")
    assert ids.dtype == np.int64
    assert (ids[0], ids[-1]) == (101, 102)  # [CLS], [SEP] of the bert-base-uncased vocabulary
    assert Tokenizer.from_file(str(checkpoint.tokenizer)).decode(list(ids)) == "he was not an ill - disposed young man,"
    assert len(word_piece.encode("word " * 300)) == 302
    assert len(word_piece.encode("")) == 0


def test_encode_of_more_tokens_than_positions_is_rejected(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="TEXT has 602 tokens; at most 512"):
        WordPiece(checkpoint.tokenizer).encode("word " * 600)
