"""A tiny IEMOCAP release with synthesised speech, in the layout and the file formats of the real one.

    python tests/training/iemocap_release.py DIRECTORY

Each modality carries the emotion, so that a model of either can learn it: the sound by rate, pitch, melody, loudness
and vocal effort, the text by its vocabulary. Results on it say nothing about real speech.

Irregularities that a reader has to handle, as in the real release:
- ratings and comments between label lines; folders beside the label files that give the same utterances
  other labels;
- rare emotions; utterances without a majority label (xxx); happiness, which some studies merge with excitement;
- transcript lines without an utterance name (`M: ...`) or of turns that were never segmented (XX); further colons,
  CRLF line ends and Windows-1252 quotes in transcripts; scripted lines that are repeated in every session;
- files that macOS adds (`._*`, `.DS_Store`);
- both actors in each dialogue, although its name has one letter; dialogues with a suffix (impro05a, script01_1b);
- utterances shorter than VGGish's one patch (0.975 s), and one of about 10 s.
"""

import argparse
import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.random import Generator
from numpy.typing import NDArray
from speech import synthesise

SAMPLE_RATE = 16_000  # Hz
FOLDER = "IEMOCAP_full_release"
SESSIONS = range(1, 6)
DIALOGUES = ("F_impro01", "M_impro05a", "F_script01_1", "M_script01_1b")  # of every session
VOICES = {  # one for each of the ten actors
    "F": ("en-us+f1", "en-us+f2", "en-us+f4", "en-us+f3", "en-us+f5"),
    "M": ("en-us+m1", "en-us+m2", "en-us+m3", "en-us+m4", "en-us+m6"),
}
EMOTIONS = {  # label in the release -> emotion; happiness is merged into excitement
    "neu": "neutral",
    "fru": "frustration",
    "ang": "anger",
    "sad": "sadness",
    "exc": "excitement",
    "hap": "excitement",
}
CLASSES = ("neu", "fru", "ang", "sad", "exc")
RARE = {1: "sur", 2: "fea", 3: "oth", 4: "dis", 5: "sur"}  # one in each session; in addition, one xxx in each dialogue
LABELS = {  # names in the annotators' forms
    "neu": "Neutral",
    "fru": "Frustration",
    "ang": "Anger",
    "sad": "Sadness",
    "exc": "Excited",
    "hap": "Happiness",
    "sur": "Surprise",
    "fea": "Fear",
    "oth": "Other",
    "dis": "Disgust",
    "xxx": "Neutral",
}
CRLF, WINDOWS_1252 = "Ses03F_impro01", "Ses02F_impro01"  # dialogues with such transcripts


@dataclass(frozen=True)
class Manner:
    """The sound (units as in `synthesise`) and the sentences of an emotion."""

    rate: int
    pitch: int
    pitch_range: int
    volume: int
    brief: str  # well under a second
    sentences: tuple[str, ...]


MIDDLE_VOLUME = 80  # middle of the volumes below
MANNERS = {
    "neu": Manner(
        *(165, 40, 40, 50),
        brief="Okay.",
        sentences=(
            "The note says: {thing} is due at 10:30 {when}.",
            "I think we can look at {thing} {when}.",
            "Yes, please put {thing} over there.",
            "Okay, so {thing} comes with a form.",
            "You need two documents for {thing}.",
            "I believe {thing} is on the second floor.",
            "Okay, please sign here for {thing}.",
            "The office opens at nine {when}.",
            "Yes, I think that is about {thing}.",
            "Please wait here, they will bring {thing}.",
            "You can collect {thing} at the second window.",
            "I believe the office has a form for that.",
        ),
    ),
    "fru": Manner(
        *(185, 5, 75, 75),
        brief="Don't.",
        sentences=(
            "Why do I keep asking about {thing}?",
            "I've told them three times about {thing} already.",
            "Nobody ever listens when I call about {thing}.",
            "How many times do I have to explain {thing}?",
            "I still don't understand why {thing} isn't ready.",
            "They keep sending me back, it makes no sense.",
            "I've been standing in line for hours {when}.",
            "Nothing works, I still have to wait for {thing}.",
            "Why can't anybody ever just fix {thing}?",
            "It makes no sense, they already had {thing}.",
            "I keep explaining and nobody understands.",
            "How long do I still have to wait {when}?",
        ),
    ),
    "ang": Manner(
        *(225, 25, 90, 130),
        brief="Get out!",
        sentences=(
            "Get out, and take {thing} with you!",
            "How dare you touch {thing}!",
            "Shut up, I hate {thing}!",
            "Don't you dare lie to me about {thing}!",
            "You stupid idiot, you broke {thing}!",
            "I hate you, get away from me!",
            "Give me {thing} right now, damn it!",
            "You liar, you took {thing} {when}!",
            "Damn you, shut up about {thing}!",
            "I'll kill him if he touches {thing}!",
            "Get away from {thing}, you stupid liar!",
            "How dare you shout at me, you idiot!",
        ),
    ),
    "sad": Manner(
        *(115, 25, 8, 25),
        brief="Gone.",
        sentences=(
            "I miss him so much {when}.",
            "She left me and {thing} is gone.",
            "I'm so lonely without her.",
            "He died before he saw {thing}.",
            "I cried all night over {thing}.",
            "It hurts, I lost {thing} forever.",
            "I'm sorry, I can't stop crying.",
            "My mother died, and I'm alone {when}.",
            "I lost her, she is gone.",
            "It hurts to look at {thing}.",
            "I'm so sorry that he left.",
            "I miss her, I cried {when}.",
        ),
    ),
    "exc": Manner(
        *(205, 99, 100, 95),
        brief="Wow!",
        sentences=(
            "Wow, guess what, I got {thing}!",
            "That's amazing, we won {thing}!",
            "I can't wait to see {thing} {when}!",
            "Oh my god, {thing} is so beautiful!",
            "I'm so happy, we got {thing}!",
            "Guess who is getting married {when}!",
            "Wow, congratulations, that's wonderful!",
            "It's going to be so much fun {when}!",
            "We won, we won, it's amazing!",
            "That's wonderful, I love {thing}!",
            "Oh my god, I can't wait, I'm so excited!",
            "Congratulations, I'm so happy about {thing}!",
        ),
    ),
}
UNSURE = "Well, I don't know about {thing} {when}."  # said with every label that is dropped
THINGS = (
    "the letter",
    "the train",
    "my suitcase",
    "the ticket",
    "that meeting",
    "the new house",
    "the car",
    "this game",
)
TIMES = ("today", "this morning", "tonight", "on Monday", "this week", "after lunch")


@dataclass(frozen=True)
class Turn:
    """One utterance of the release."""

    id: str
    session: str  # "Session1"
    dialogue: str  # "Ses01F_impro01"
    speaker: str  # "Ses01M": session and gender of the speaker
    style: str  # "improvised" or "scripted"
    label: str  # three letters, as published
    text: str
    seconds: tuple[float, float]  # start and end in the dialogue


@dataclass(frozen=True)
class Release:
    """The directory and the utterances of a release."""

    root: Path  # the folder IEMOCAP_full_release
    turns: tuple[Turn, ...]

    @property
    def kept(self) -> tuple[Turn, ...]:
        """Return the turns of the five classes, happiness merged into excitement."""
        return tuple(turn for turn in self.turns if turn.label in EMOTIONS)

    @property
    def emotions(self) -> dict[str, str]:
        """Return the emotion by utterance id, happiness merged into excitement."""
        return {turn.id: EMOTIONS[turn.label] for turn in self.kept}

    @property
    def dropped(self) -> dict[str, int]:
        """Return the number of turns by label, for labels outside the five classes."""
        return dict(Counter(turn.label for turn in self.turns if turn.label not in EMOTIONS))


def make(root: Path, utterances_per_class_and_speaker: int = 4, seed: int = 0) -> Release:
    """Write a release; the same arguments write the same bytes.

    Args:
        root: the directory in which IEMOCAP_full_release is made.
        utterances_per_class_and_speaker: one in each dialogue for every four; there are five classes, ten speakers.
        seed: seed of improvised sentences, of order, of pauses, and of the variation of each utterance's sound.

    Raises:
        FileExistsError: the directory has a release already.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True)
    turns: list[Turn] = []
    for number in SESSIONS:
        for index, name in enumerate(DIALOGUES):
            dialogue = f"Ses{number:02}{name}"
            random = np.random.default_rng((seed, number, index))
            share = range(index, utterances_per_class_and_speaker, len(DIALOGUES))
            cast = _cast(number, index, share, random)
            spoken = _speak(folder, number, dialogue, cast, random)
            session = folder / f"Session{number}"
            _write_labels(session, dialogue, spoken)
            _write_transcript(session, dialogue, spoken)
            turns += spoken
        _write_leftovers(folder / f"Session{number}", f"Ses{number:02}{DIALOGUES[0]}")
    return Release(folder, tuple(turns))


def _cast(number: int, index: int, share: range, random: Generator) -> list[tuple[str, str, str]]:
    """Return (gender, label, sentence) of each turn of one dialogue, in order."""
    scripted = "script" in DIALOGUES[index]
    cast = []
    for label in CLASSES:
        sentences = MANNERS[label].sentences
        for at, gender in enumerate("FM"):
            for turn in share:
                if scripted:  # the same lines in every session
                    line = turn * 2 + at
                    sentence = _fill(sentences[line % len(sentences)], line, line)
                else:
                    sentence = _fill(random.choice(sentences), *random.integers(100, size=2))
                if turn == 0 and gender == "F" and label == CLASSES[number - 1]:
                    sentence = MANNERS[label].brief
                cast.append((gender, "hap" if label == "exc" and turn == 0 else label, sentence))
    if (number, index) == (1, 2):  # the one long utterance
        lines = MANNERS["neu"].sentences[:4]
        cast.append(("M", "neu", " ".join(_fill(line, at, at) for at, line in enumerate(lines))))
    cast.append(("M", "xxx", _fill(UNSURE, number, index)))
    if index == 0:
        cast.append(("F", RARE[number], _fill(UNSURE, number + 1, number)))
    return [cast[at] for at in random.permutation(len(cast))]


def _fill(sentence: str, thing: int, when: int) -> str:
    return sentence.format(thing=THINGS[thing % len(THINGS)], when=TIMES[when % len(TIMES)])


def _with_effort(waveform: NDArray[np.float32], volume: int) -> NDArray[np.float32]:
    """Tilt the spectrum as a speaker's effort does: soft voices are dull and loud ones bright, whatever the level."""
    tilt = np.float32(np.clip((volume - MIDDLE_VOLUME) / MIDDLE_VOLUME, -0.9, 0.9))
    tilted: NDArray[np.float32] = waveform.copy()
    tilted[1:] -= tilt * waveform[:-1]
    return tilted / np.float32(1 + abs(tilt))


def _speak(folder: Path, number: int, dialogue: str, cast: list[tuple[str, str, str]], random: Generator) -> list[Turn]:
    """Write the recordings of one dialogue (RIFF, PCM 16 bit, mono, 16 kHz)."""
    directory = folder / f"Session{number}" / "sentences" / "wav" / dialogue
    directory.mkdir(parents=True)
    turns = []
    counts: Counter[str] = Counter()
    clock = float(random.uniform(3, 8))
    for gender, label, sentence in cast:
        name = f"{dialogue}_{gender}{counts[gender]:03}"
        counts[gender] += 1
        manner = MANNERS.get("exc" if label == "hap" else label, MANNERS["neu"])
        waveform, rate = synthesise(
            sentence,
            VOICES[gender][number - 1],
            rate=manner.rate + int(random.integers(-10, 11)),
            pitch=min(100, manner.pitch + int(random.integers(-5, 6))),
            pitch_range=min(100, manner.pitch_range + int(random.integers(-5, 6))),
            volume=manner.volume + int(random.integers(-8, 9)),
        )
        waveform = _with_effort(soxr.resample(waveform, rate, SAMPLE_RATE), manner.volume)
        soundfile.write(directory / f"{name}.wav", waveform, SAMPLE_RATE, subtype="PCM_16")
        end = clock + len(waveform) / SAMPLE_RATE
        turns.append(
            Turn(
                id=name,
                session=f"Session{number}",
                dialogue=dialogue,
                speaker=f"Ses{number:02}{gender}",
                style="scripted" if "script" in dialogue else "improvised",
                label=label,
                text=sentence.replace("'", "\u2019") if dialogue == WINDOWS_1252 else sentence,
                seconds=(round(clock, 4), round(end, 4)),
            )
        )
        clock = end + float(random.uniform(0.1, 1.5))
    return turns


def _write_labels(session: Path, dialogue: str, turns: list[Turn]) -> None:
    """Write EmoEvaluation/<dialogue>.txt, and three folders beside it that give the same utterances other labels."""
    evaluation = session / "dialog" / "EmoEvaluation"
    for name in ("Attribute", "Categorical", "Self-evaluation"):
        (evaluation / name).mkdir(parents=True, exist_ok=True)
    (evaluation / f"{dialogue}.txt").write_text(_labels(turns))
    mistaken = [dataclasses.replace(turn, label="ang" if turn.label != "ang" else "sad") for turn in turns]
    attributes = "".join(f"{turn.id} :act 3; :val 3; :dom  3; :comments ();\n" for turn in mistaken)
    categories = "".join(f"{turn.id} :{LABELS[turn.label]}; ()\n" for turn in mistaken)
    (evaluation / "Attribute" / f"{dialogue}_e2.atr").write_text(attributes)
    (evaluation / "Attribute" / f"{dialogue}_e2_atr.txt").write_text(attributes)
    (evaluation / "Categorical" / f"{dialogue}_e2.cat").write_text(categories)
    (evaluation / "Categorical" / f"{dialogue}_e2_cat.txt").write_text(categories)
    (evaluation / "Self-evaluation" / f"{dialogue}_f1.atr").write_text(attributes)
    # not a file of the real release: a reader that searches these folders gets wrong labels
    (evaluation / "Self-evaluation" / f"{dialogue}.txt").write_text(_labels(mistaken))


def _labels(turns: list[Turn]) -> str:
    text = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    for turn in turns:
        start, end = turn.seconds
        category = LABELS[turn.label]
        text += f"[{start:.4f} - {end:.4f}]\t{turn.id}\t{turn.label}\t[2.5000, 3.0000, 2.5000]\n"
        text += f"C-E2:\t{category};\t()\nC-E3:\t{category};\t()\nC-E1:\tAnger;\t()\nC-F1:\t{category};\t()\n"
        text += "A-E3:\tval 3; act 2; dom  2;\t()\nA-E4:\tval 2; act 3; dom  3;\t(mixed: sad, then angry)\n"
        text += "A-F1:\tval 3; act 2; dom  1;\t()\n\n"
    return text


def _write_transcript(session: Path, dialogue: str, turns: list[Turn]) -> None:
    """Write transcriptions/<dialogue>.txt, with lines that belong to no utterance."""
    lines = []
    for turn in turns:
        start, end = turn.seconds
        lines.append(f"{turn.id} [{start:08.4f}-{end:08.4f}]: {turn.text}")
    start = turns[0].seconds[1]
    lines.insert(1, f"{dialogue}_FXX0 [{start:08.4f}-{start + 0.1:08.4f}]: [LAUGHTER]")
    lines.insert(2, "M: (sighs) Not now: later.")
    end_of_line = "\r\n" if dialogue == CRLF else "\n"
    encoding = "cp1252" if dialogue == WINDOWS_1252 else "ascii"
    text = end_of_line.join([*lines, ""])
    directory = session / "dialog" / "transcriptions"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{dialogue}.txt").write_bytes(text.encode(encoding))


def _write_leftovers(session: Path, dialogue: str) -> None:
    """Write the files that macOS adds: AppleDouble files and the Finder's settings."""
    apple_double = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(range(256))
    for directory, name in (
        (session / "dialog" / "EmoEvaluation", f"{dialogue}.txt"),
        (session / "dialog" / "transcriptions", f"{dialogue}.txt"),
        (session / "sentences" / "wav" / dialogue, f"{dialogue}_F000.wav"),
    ):
        (directory / f"._{name}").write_bytes(apple_double)
        (directory / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1" + bytes(64))


def main() -> None:
    """Make a release in the directory given on the command line."""
    parser = argparse.ArgumentParser(description="Make a tiny IEMOCAP release with synthesised speech.")
    parser.add_argument("directory", type=Path, help=f"where {FOLDER} is made")
    parser.add_argument("--utterances", type=int, default=4, help="for each class and speaker (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        release = make(arguments.directory, arguments.utterances, arguments.seed)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}; choose a directory that can be written, without {FOLDER}")
    print(f"{release.root}: {len(release.kept)} utterances of five emotions, {sum(release.dropped.values())} others")


if __name__ == "__main__":
    main()
