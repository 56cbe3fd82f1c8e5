"""Read the IEMOCAP release: five sessions of two actors, improvised and scripted, in English.

    IEMOCAP_full_release/SessionN/dialog/EmoEvaluation/<dialogue>.txt     labels (its subfolders are not read)
    IEMOCAP_full_release/SessionN/dialog/transcriptions/<dialogue>.txt    transcripts
    IEMOCAP_full_release/SessionN/sentences/wav/<dialogue>/<utterance>.wav

A missing recording or transcript of a kept utterance, or a dialogue without labels, is an error, because the release
is unpacked incompletely. An utterance whose line is missing in the transcript has audio alone, which is reported.
"""

import re
from pathlib import Path

from training.corpora.release import Release, files, name_some, read_text
from training.corpora.table import HAPPINESS_DROPPED, Collector, Corpus, Utterance
from training.errors import TrainingError

PUBLISHER = "https://sail.usc.edu/iemocap/"
FOLDER = "IEMOCAP_full_release"
SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
LABELS, TRANSCRIPTS, RECORDINGS = "dialog/EmoEvaluation", "dialog/transcriptions", "sentences/wav"

KEPT = {"neu": "neutral", "fru": "frustration", "ang": "anger", "sad": "sadness", "exc": "excitement"}
HAPPINESS = "hap"
DROPPED = {
    "sur": "surprise is not among the five emotions (sur)",
    "fea": "fear is not among the five emotions (fea)",
    "dis": "disgust is not among the five emotions (dis)",
    "oth": "another emotion than those offered to the annotators (oth)",
    "xxx": "no majority among the annotators (xxx)",
}

_TIMES = re.compile(r"\[[\d.]+ - [\d.]+\]")
_OBTAIN = f"Unpack the whole release again; it is obtained with the release form at {PUBLISHER}"


def find(root: Path) -> Release:
    """Find the files of a release in its folder or in the folder that contains it.

    Raises:
        TrainingError: the release or parts of it are missing.
    """
    if (root / FOLDER).is_dir():
        root = root / FOLDER
    if not any((root / session).is_dir() for session in SESSIONS):
        raise TrainingError(
            f"no IEMOCAP release in {root}: expected are the folders {SESSIONS[0]} to {SESSIONS[-1]}, or a folder "
            f"{FOLDER} that holds them. It is obtained with the release form at {PUBLISHER}"
        )
    folders = [f"{session}/{part}" for session in SESSIONS for part in (LABELS, TRANSCRIPTS, RECORDINGS)]
    missing = [folder for folder in folders if not any((root / folder).glob("*"))]
    if missing:
        raise TrainingError(
            f"the IEMOCAP release in {root} is incomplete: {len(missing)} of {len(folders)} folders missing or empty "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); every session has "
            f"{LABELS}, {TRANSCRIPTS} and {RECORDINGS}. {_OBTAIN}"
        )
    sessions = [root / session for session in SESSIONS]
    labels = [path for session in sessions for path in files(session / LABELS, "*.txt")]
    transcripts = [path for session in sessions for path in files(session / TRANSCRIPTS, "*.txt")]
    recordings = [path for session in sessions for path in files(session / RECORDINGS, "*/*.wav")]
    return Release(root, (*labels, *transcripts), frozenset(recordings))


def read(release: Release, happiness_policy: str) -> Corpus:
    """Read labels and transcripts, and check that each kept utterance has its recording.

    Raises:
        TrainingError: recordings or transcript files are missing, or a label is not one of IEMOCAP's.
    """
    table = Collector("iemocap")
    missing: list[Path] = []
    annotations = set(release.annotations)
    for session in (release.root / name for name in SESSIONS):
        for transcript in (path for path in release.annotations if path.parent == session / TRANSCRIPTS):
            labels = session / LABELS / transcript.name
            if labels not in annotations:
                missing.append(labels)
        for labels in (path for path in release.annotations if path.parent == session / LABELS):
            transcript = session / TRANSCRIPTS / labels.name
            sentences = parse_transcript(read_text(transcript)) if transcript in annotations else None
            for name, code in parse_labels(read_text(labels)):
                if code in DROPPED:
                    table.drop(DROPPED[code])
                elif code == HAPPINESS and happiness_policy == "drop":
                    table.drop(HAPPINESS_DROPPED)
                elif code == HAPPINESS or code in KEPT:
                    dialogue = name[:-5]
                    audio = session / RECORDINGS / dialogue / f"{name}.wav"
                    if audio not in release.audio:
                        missing.append(audio)
                    if sentences is None and transcript not in missing:
                        missing.append(transcript)
                    table.keep(
                        Utterance(
                            id=name,
                            audio=audio,
                            text=(sentences or {}).get(name),
                            emotion=KEPT.get(code, "excitement"),
                            speaker=speaker(name),
                            session=session.name,
                            dialogue=dialogue,
                            style=style(dialogue),
                        )
                    )
                else:
                    accepted = ", ".join((*KEPT, HAPPINESS, *DROPPED))
                    raise TrainingError(f"{labels}: {name} has the label {code!r}; IEMOCAP's are {accepted}. {_OBTAIN}")
    if missing:
        names = name_some(path.relative_to(release.root) for path in missing)
        raise TrainingError(f"the IEMOCAP release in {release.root} is incomplete: it lacks {names}. {_OBTAIN}")
    return table.corpus()


def parse_labels(text: str) -> list[tuple[str, str]]:
    """Return (utterance, three-letter emotion) of each label line; other lines are headers, ratings or comments."""
    found = []
    for line in text.split("\n"):
        fields = line.split("\t")
        if len(fields) >= 3 and _TIMES.fullmatch(fields[0].strip()):
            found.append((fields[1].strip(), fields[2].strip()))
    return found


def parse_transcript(text: str) -> dict[str, str]:
    """Return utterance -> sentence, without lines of neither actor and of turns that were not segmented (XX)."""
    found = {}
    for line in text.split("\n"):
        head, colon, sentence = line.partition(":")  # the sentence may hold further colons
        if colon and line.startswith("Ses"):
            name = head.split()[0]
            if "XX" not in name:
                found[name] = sentence.strip()
    return found


def speaker(name: str) -> str:
    """Return session and gender of the speaker: Ses01F_impro05_M019 gives Ses01M (F: whose face was captured)."""
    return name[:5] + name.rpartition("_")[2][0]


def style(dialogue: str) -> str | None:
    """Return "improvised" or "scripted" by the name of the dialogue, or None."""
    return "improvised" if "impro" in dialogue else "scripted" if "script" in dialogue else None
