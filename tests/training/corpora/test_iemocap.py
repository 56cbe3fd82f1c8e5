"""Test the reader of IEMOCAP on single lines, on a synthetic release, and on incomplete releases."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from iemocap_release import CRLF, WINDOWS_1252, Release, Turn

from emotion import audio, decoding
from training.corpora import Corpus, Utterance, account, load
from training.corpora.iemocap import (
    LABELS,
    RECORDINGS,
    TRANSCRIPTS,
    find,
    parse_labels,
    parse_transcript,
    speaker,
    style,
)
from training.corpora.release import read_text
from training.errors import TrainingError


def test_parse_labels_reads_label_lines_alone() -> None:
    text = (
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n"
        "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
        "[10.0100 - 11.3925]\tSes01F_impro01_M001\txxx\t[2.5000, 3.0000, 2.5000]\n"
        "[not - times]\tSes01F_impro01_M002\tang\t[2.5000, 3.0000, 2.5000]\n"
    )
    assert parse_labels(text) == [("Ses01F_impro01_F000", "neu"), ("Ses01F_impro01_M001", "xxx")]


def test_parse_transcript_reads_sentences_by_utterance() -> None:
    text = (
        "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n"
        "M: (breathing)\n"
        "Ses01F_impro01_MXX0 [1.0-2.0]: Mm.\n"
        "Ses01F_impro01_F001 [9.0-9.9]: Listen: it is 10:30.\n"
        "Ses01F_impro01_F002 without an end\n"
    )
    assert parse_transcript(text) == {
        "Ses01F_impro01_F000": "Excuse me.",
        "Ses01F_impro01_F001": "Listen: it is 10:30.",
    }


def test_speaker_and_style_follow_the_name() -> None:
    assert speaker("Ses01F_impro05_M019") == "Ses01M"
    assert speaker("Ses03M_script01_1b_F003") == "Ses03F"
    assert style("Ses01F_impro05") == "improvised"
    assert style("Ses03M_script01_1b") == "scripted"


# --- irregularities of the synthetic release; each test first checks that its irregularity is present


@pytest.fixture(scope="module")
def corpus(iemocap_release: Release) -> Corpus:
    return load("iemocap", iemocap_release.root)


@pytest.fixture(scope="module")
def rows(corpus: Corpus) -> dict[str, Utterance]:
    return {row.id: row for row in corpus.utterances}


@pytest.fixture(scope="module")
def turns(iemocap_release: Release) -> dict[str, Turn]:
    return {turn.id: turn for turn in iemocap_release.kept}


def test_load_keeps_every_utterance_of_the_five_emotions(iemocap_release: Release, rows: dict[str, Utterance]) -> None:
    assert {name: row.emotion for name, row in rows.items()} == iemocap_release.emotions


def test_load_drops_and_counts_other_emotions(iemocap_release: Release, corpus: Corpus) -> None:
    assert set(iemocap_release.dropped) == {"sur", "fea", "oth", "dis", "xxx"}
    assert {reason[-4:-1]: count for reason, count in corpus.dropped.items()} == iemocap_release.dropped


def test_load_merges_or_drops_happiness(iemocap_release: Release, rows: dict[str, Utterance]) -> None:
    happy = {turn.id for turn in iemocap_release.turns if turn.label == "hap"}
    assert len(happy) == 10
    assert {rows[name].emotion for name in happy} == {"excitement"}
    without = load("iemocap", iemocap_release.root, happiness_policy="drop")
    assert {row.id for row in without.utterances} == rows.keys() - happy
    assert without.dropped["happiness is left out (--happiness-policy drop)"] == 10


def test_load_ignores_folders_of_single_annotators(iemocap_release: Release, rows: dict[str, Utterance]) -> None:
    files = set(iemocap_release.root.glob(f"*/{LABELS}/*/*.txt"))
    assert not files & set(find(iemocap_release.root).annotations)
    others = dict(pair for path in files for pair in parse_labels(read_text(path)))
    assert rows.keys() < others.keys()
    for turn in iemocap_release.kept:
        assert others[turn.id] != turn.label
        assert rows[turn.id].emotion == iemocap_release.emotions[turn.id]


def test_load_ignores_ratings_between_label_lines(iemocap_release: Release) -> None:
    text = read_text(iemocap_release.root / "Session1" / LABELS / "Ses01F_impro01.txt")
    assert "C-E1:\tAnger;\t()" in text
    assert "A-E3:\tval 3; act 2; dom  2;\t()" in text
    expected = [(turn.id, turn.label) for turn in iemocap_release.turns if turn.dialogue == "Ses01F_impro01"]
    assert parse_labels(text) == expected


def test_load_ignores_transcript_lines_without_speaker_or_segment(iemocap_release: Release) -> None:
    text = read_text(iemocap_release.root / "Session1" / TRANSCRIPTS / "Ses01F_impro01.txt")
    assert "\nM: (sighs) Not now: later.\n" in text
    assert "\nSes01F_impro01_FXX0 [" in text
    expected = {turn.id: turn.text for turn in iemocap_release.turns if turn.dialogue == "Ses01F_impro01"}
    assert parse_transcript(text) == expected


def test_load_splits_text_at_the_first_colon(rows: dict[str, Utterance], turns: dict[str, Turn]) -> None:
    with_colon = [turn for turn in turns.values() if ":" in turn.text]
    assert with_colon
    assert [rows[turn.id].text for turn in with_colon] == [turn.text for turn in with_colon]


def test_load_keeps_texts_as_published(rows: dict[str, Utterance], turns: dict[str, Turn]) -> None:
    assert {name: row.text for name, row in rows.items()} == {name: turn.text for name, turn in turns.items()}


def test_load_accepts_windows_line_ends(
    iemocap_release: Release, rows: dict[str, Utterance], turns: dict[str, Turn]
) -> None:
    assert b"\r\n" in (iemocap_release.root / "Session3" / TRANSCRIPTS / f"{CRLF}.txt").read_bytes()
    for turn in turns.values():
        if turn.dialogue == CRLF:
            assert rows[turn.id].text == turn.text


def test_load_repairs_a_windows_1252_apostrophe(
    iemocap_release: Release, rows: dict[str, Utterance], turns: dict[str, Turn]
) -> None:
    assert b"\x92" in (iemocap_release.root / "Session2" / TRANSCRIPTS / f"{WINDOWS_1252}.txt").read_bytes()
    with_apostrophe = [turn for turn in turns.values() if "\u2019" in turn.text]
    assert with_apostrophe
    assert [rows[turn.id].text for turn in with_apostrophe] == [turn.text for turn in with_apostrophe]


def test_load_ignores_what_macos_adds(iemocap_release: Release) -> None:
    for part in (LABELS, TRANSCRIPTS, f"{RECORDINGS}/Ses01F_impro01"):
        assert (iemocap_release.root / "Session1" / part / ".DS_Store").is_file()
        assert list((iemocap_release.root / "Session1" / part).glob("._*"))
    release = find(iemocap_release.root)
    assert not [path for path in (*release.annotations, *release.audio) if path.name.startswith(".")]
    assert len(release.audio) == len(iemocap_release.turns)


def test_load_takes_the_speaker_from_the_utterance(rows: dict[str, Utterance], turns: dict[str, Turn]) -> None:
    assert {name: row.speaker for name, row in rows.items()} == {name: turn.speaker for name, turn in turns.items()}
    assert {row.speaker for row in rows.values() if row.dialogue == "Ses01F_impro01"} == {"Ses01F", "Ses01M"}
    assert len({row.speaker for row in rows.values()}) == 10


def test_load_accepts_dialogues_with_a_suffix(rows: dict[str, Utterance], turns: dict[str, Turn]) -> None:
    assert {name: row.dialogue for name, row in rows.items()} == {name: turn.dialogue for name, turn in turns.items()}
    assert {"Ses03M_impro05a", "Ses05M_script01_1b"} < {row.dialogue for row in rows.values()}


def test_load_sets_sessions_and_styles(rows: dict[str, Utterance], turns: dict[str, Turn]) -> None:
    for name, row in rows.items():
        assert (row.session, row.style) == (turns[name].session, turns[name].style)
    assert Counter(row.style for row in rows.values()) == {"improvised": 100, "scripted": 101}


def test_load_finds_the_recording_of_each_utterance(rows: dict[str, Utterance], turns: dict[str, Turn]) -> None:
    for name, row in rows.items():
        assert row.audio is not None
        assert row.audio.stem == name
        start, end = turns[name].seconds
        assert soundfile.info(row.audio).duration == pytest.approx(end - start, abs=2e-4)


def test_load_keeps_short_and_long_utterances(rows: dict[str, Utterance]) -> None:
    waveforms = [decoding.decode(row.audio.read_bytes()) for row in rows.values() if row.audio]
    short = [waveform for waveform in waveforms if waveform.size < audio.MIN_SAMPLES]
    assert len(short) == 5
    assert {len(audio.sound_patches(waveform)) for waveform in short} == {1}
    assert max(len(audio.sound_patches(waveform)) for waveform in waveforms) >= 10


def test_load_finds_the_release_from_its_parent(iemocap_release: Release, corpus: Corpus) -> None:
    assert load("iemocap", iemocap_release.root.parent) == corpus


def test_load_from_the_cache_is_equal(iemocap_release: Release, corpus: Corpus, tmp_path: Path) -> None:
    assert load("iemocap", iemocap_release.root, cache=tmp_path) == corpus
    assert load("iemocap", iemocap_release.root, cache=tmp_path) == corpus


# --- incomplete releases and the cache, on a release with empty recordings


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Write five sessions of one dialogue with two utterances; the reader must not open the empty recordings."""
    root = tmp_path / "IEMOCAP_full_release"
    for number in range(1, 6):
        session, dialogue = root / f"Session{number}", f"Ses0{number}F_impro01"
        (session / RECORDINGS / dialogue).mkdir(parents=True)
        for folder in (LABELS, TRANSCRIPTS):
            (session / folder).mkdir(parents=True)
        labels, sentences = [], []
        for code, name in (("hap", f"{dialogue}_F000"), ("fru", f"{dialogue}_M000")):
            (session / RECORDINGS / dialogue / f"{name}.wav").touch()
            labels.append(f"[1.0 - 2.0]\t{name}\t{code}\t[2.5, 2.5, 2.5]\n")
            sentences.append(f"{name} [1.0-2.0]: Well.\n")
        (session / LABELS / f"{dialogue}.txt").write_text("".join(labels))
        (session / TRANSCRIPTS / f"{dialogue}.txt").write_text("".join(sentences))
    return root


def test_load_counts_dropped_happiness(release: Path) -> None:
    merged = load("iemocap", release)
    assert [row.emotion for row in merged.utterances] == ["excitement", "frustration"] * 5
    dropped = load("iemocap", release.parent, happiness_policy="drop")
    assert [row.speaker for row in dropped.utterances] == [f"Ses0{number}M" for number in range(1, 6)]
    assert dropped.dropped == {"happiness is left out (--happiness-policy drop)": 5}


def test_load_with_a_missing_transcript_line_keeps_the_audio(release: Path) -> None:
    transcript = release / "Session2" / TRANSCRIPTS / "Ses02F_impro01.txt"
    transcript.write_text("".join(transcript.read_text().splitlines(keepends=True)[1:]))
    corpus = load("iemocap", release)
    assert [row.id for row in corpus.utterances if row.text is None] == ["Ses02F_impro01_F000"]
    assert "audio and text 9, audio alone 1" in account(corpus)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (f"Session2/{LABELS}", "1 of 15 folders missing or empty (Session2/dialog/EmoEvaluation); every session has"),
        (
            "Session3",
            "3 of 15 folders missing or empty (Session3/dialog/EmoEvaluation, Session3/dialog/transcriptions, ",
        ),
        (f"Session1/{LABELS}/Ses01F_impro01.txt", "1 of 15 folders missing or empty"),
        (f"Session4/{TRANSCRIPTS}/Ses04F_impro01.txt", "1 of 15 folders missing or empty"),
        (
            f"Session5/{RECORDINGS}/Ses05F_impro01/Ses05F_impro01_M000.wav",
            "it lacks Session5/sentences/wav/Ses05F_impro01/Ses05F_impro01_M000.wav",
        ),
    ],
)
def test_load_of_an_incomplete_release_names_what_is_missing(release: Path, gone: str, message: str) -> None:
    if (release / gone).is_dir():
        shutil.rmtree(release / gone)
    else:
        (release / gone).unlink()
    with pytest.raises(TrainingError) as caught:
        load("iemocap", release)
    assert message in str(caught.value)
    assert str(release) in str(caught.value)
    assert "https://sail.usc.edu/iemocap/" in str(caught.value)


@pytest.mark.parametrize("folder", [LABELS, TRANSCRIPTS])
def test_load_of_an_incomplete_dialogue_names_what_is_missing(release: Path, folder: str) -> None:
    for part in (LABELS, TRANSCRIPTS):
        file = release / "Session1" / part / "Ses01F_impro01.txt"
        other = file.with_name("Ses01M_impro02.txt")
        other.write_text(file.read_text().replace("Ses01F_impro01", "Ses01M_impro02") if part == LABELS else "")
    (release / "Session1" / RECORDINGS / "Ses01M_impro02").mkdir()
    for letter in "FM":
        (release / "Session1" / RECORDINGS / "Ses01M_impro02" / f"Ses01M_impro02_{letter}000.wav").touch()
    assert len(load("iemocap", release).utterances) == 12
    (release / "Session1" / folder / "Ses01M_impro02.txt").unlink()
    with pytest.raises(TrainingError, match=f"it lacks Session1/{folder}/Ses01M_impro02.txt. Unpack"):
        load("iemocap", release)


def test_load_with_an_unknown_label_names_it(release: Path) -> None:
    labels = release / "Session1" / LABELS / "Ses01F_impro01.txt"
    labels.write_text(labels.read_text().replace("fru", "bored"))
    with pytest.raises(TrainingError, match="Ses01F_impro01_M000 has the label 'bored'; IEMOCAP's are neu, fru, "):
        load("iemocap", release)


def test_load_of_another_directory_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        load("iemocap", tmp_path)
    assert str(caught.value) == (
        f"no IEMOCAP release in {tmp_path}: expected are the folders Session1 to Session5, or a folder "
        "IEMOCAP_full_release that holds them. It is obtained with the release form at https://sail.usc.edu/iemocap/"
    )


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_load_of_a_missing_directory_is_rejected(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "iemocap.tar.gz"
    if kind == "file":
        path.write_bytes(b"\x1f\x8b")
    with pytest.raises(TrainingError, match=r"no IEMOCAP release in .*gz: expected are the folders Session1 to"):
        load("iemocap", path)


def test_load_without_recordings_is_rejected(release: Path) -> None:
    for session in release.iterdir():
        shutil.rmtree(session / RECORDINGS)
    with pytest.raises(TrainingError, match=r"5 of 15 folders missing or empty \(Session1/sentences/wav, .*, \.\.\.\)"):
        load("iemocap", release)


def test_load_again_reads_the_cache(release: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    corpus = load("iemocap", release, cache=cache)
    (table,) = cache.iterdir()
    table.write_text(table.read_text().replace('"Well."', '"From the cache."'))
    assert {row.text for row in load("iemocap", release, cache=cache).utterances} == {"From the cache."}
    table.write_text("{")
    assert load("iemocap", release, cache=cache) == corpus


@pytest.mark.parametrize("part", [LABELS, TRANSCRIPTS])
def test_load_with_a_changed_file_ignores_the_cache(release: Path, tmp_path: Path, part: str) -> None:
    cache = tmp_path / "cache"
    load("iemocap", release, cache=cache)
    file = release / "Session1" / part / "Ses01F_impro01.txt"
    status = file.stat()
    file.write_text(file.read_text().replace("fru", "ang").replace("Well.", "Hmmm."))  # the size is unchanged
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = load("iemocap", release, cache=cache)
    assert changed == load("iemocap", release)
    assert (changed.utterances[1].emotion, changed.utterances[1].text) == (
        ("anger", "Well.") if part == LABELS else ("frustration", "Hmmm.")
    )


def test_load_with_a_vanished_recording_ignores_the_cache(release: Path, tmp_path: Path) -> None:
    load("iemocap", release, cache=tmp_path / "cache")
    (release / "Session5" / RECORDINGS / "Ses05F_impro01" / "Ses05F_impro01_M000.wav").unlink()
    with pytest.raises(TrainingError, match="it lacks Session5/sentences/wav/Ses05F_impro01/Ses05F_impro01_M000"):
        load("iemocap", release, cache=tmp_path / "cache")
