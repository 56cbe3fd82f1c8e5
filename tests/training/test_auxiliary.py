"""Test the targets and the losses of auxiliary heads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import tone

from stages.asr import MIRRORS
from training import demo, teacher
from training.augmentation import SPEEDS, UNCHANGED_SPEED, change_speed
from training.auxiliary import AuxiliaryHeads, label_targets
from training.corpora import Utterance
from training.errors import TrainingError
from training.recordings import Recordings


def row(name: str, *labels: str) -> Utterance:
    return Utterance(name, None, "Well.", "neutral", labels=labels)


def test_label_targets_share_a_row_evenly_and_leave_unlabelled_rows_zero() -> None:
    targets = label_targets([row("a", "joy"), row("b", "anger", "joy"), row("c")])
    np.testing.assert_array_equal(targets, np.array([[0, 1], [0.5, 0.5], [0, 0]], np.float32))


def test_label_targets_without_any_label_are_rejected() -> None:
    with pytest.raises(TrainingError, match="--auxiliary-weight needs published labels"):
        label_targets([row("a"), row("b")])


def test_loss_uses_each_modality_of_the_rows_that_have_it() -> None:
    torch.manual_seed(0)
    labels = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    features = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    heads = AuxiliaryHeads(labels, features, 1.0, 1.0)
    audio, text, rows = torch.randn(3, 128), torch.randn(3, 256), (torch.arange(3), torch.tensor([4, 0, 2]))
    has, no = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    both = heads.loss(*rows, audio, has, text, has)
    torch.testing.assert_close(both, heads.loss(*rows, audio, has, text, no) + heads.loss(*rows, audio, no, text, has))
    assert heads.loss(*rows, audio, no, text, no).item() == 0
    heads.feature_weight = 0.0
    of_labels = heads.loss(*rows, audio, has, text, has)
    heard = features[[4, 0, 2], [0, 1, 2]]
    of_features = torch.nn.functional.mse_loss(heads.audio_features(audio), torch.from_numpy(heard))
    torch.testing.assert_close(both - of_labels, of_features)
    heads.label_weight, heads.feature_weight = 0.5, 2.0
    weighted = heads.loss(*rows, audio, has, text, has)
    torch.testing.assert_close(weighted, 0.5 * of_labels + 2.0 * (both - of_labels))
    heads.label_weight, heads.feature_weight = 1.0, 1.0
    unlabelled = torch.tensor([False, False, True])
    assert heads.loss(*rows, audio, no, text, unlabelled).item() == 0


def test_teacher_features_differ_by_sound_and_are_cached(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    waveforms = [tone(220, 1.0), tone(220, 1.0), tone(1760, 1.3, seed=3)]
    for path in paths:
        path.touch()
    places, start = {}, 0
    for path, waveform in zip(paths, waveforms, strict=True):
        places[str(path)] = (start, waveform.size)
        start += waveform.size
    recordings = Recordings(np.concatenate(waveforms), places, "three")
    assert MIRRORS["tiny.en"] == demo.WHISPER_PACKAGE
    model = str(demo.whisper_directory())
    by_path = teacher.features(model, recordings, tmp_path / "cache")
    found = np.array([by_path[path] for path in paths])
    assert found.shape == (3, len(SPEEDS), 768) and found.dtype == np.float32 and np.isfinite(found).all()
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 0.1
    slowed = change_speed(waveforms[2], SPEEDS[0])
    slow = Recordings(slowed, {"slow": (0, slowed.size)}, "slow")
    heard = teacher.features(model, slow, tmp_path / "cache")[Path("slow")]
    assert (
        np.abs(heard[UNCHANGED_SPEED] - found[2, 0]).mean()
        < 0.1 * np.abs(heard[UNCHANGED_SPEED] - found[2, UNCHANGED_SPEED]).mean()
    )
    silent = Recordings(np.empty(0, np.float32), places, "three")
    for path, rows in teacher.features(model, silent, tmp_path / "cache").items():
        np.testing.assert_array_equal(rows, by_path[path])
    standardised = teacher.standardise(found)
    np.testing.assert_allclose(standardised.mean(axis=(0, 1)), 0, atol=1e-2)
    np.testing.assert_allclose(standardised.std(axis=(0, 1))[found.std(axis=(0, 1)) > 1e-3], 1, atol=1e-2)


def test_teacher_features_of_a_damaged_model_are_rejected_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"^--teacher .*: no Whisper model can be loaded \(.+\); give a dir.*$"):
        teacher.features(str(tmp_path), Recordings(np.empty(0, np.float32), {}), tmp_path / "cache")


def test_teacher_features_of_a_missing_directory_are_rejected_without_a_download(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^--teacher .*absent: there is no such directory; give a directory in "):
        teacher.features(str(tmp_path / "absent"), Recordings(np.empty(0, np.float32), {}), tmp_path / "cache")


def test_teacher_features_that_cannot_be_written_name_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")
    with pytest.raises(TrainingError, match=r"^the teacher's features can't be written to .* another directory with"):
        teacher.features(str(demo.whisper_directory()), Recordings(np.empty(0, np.float32), {}), tmp_path / "cache")
