"""Test compact checkpoints: stored tensors, loss by truncation, and rejection of other initial weights."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emotion import checkpoint as checkpoints
from emotion.checkpoint import CheckpointError, create, digest, load, save
from emotion.checkpoint.__main__ import main
from emotion.checkpoint.compact import compact, expand
from emotion.model import probabilities
from emotion.text import WordPiece
from tests.narrow import CHANNELS, HIDDEN, narrow_vggish

pytestmark = pytest.mark.usefixtures("narrow_models")

RANK = 4
TEMPERATURES = {"fused": 1.25, "audio": 0.8, "text": 1.6}
CONFIDENCE = {"fused": [1.5, -0.25], "audio": [0.5, 0.0], "text": [2.0, -1.0]}
TEXT_MATRICES = ("encoder.layer.0.attention.self.query.weight", "encoder.layer.5.output.dense.weight")
AUDIO_MATRICES = ("embeddings.0.weight", "embeddings.2.weight")


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m emotion.checkpoint` in this process, with a narrow VGGish."""
    words = ["emotion.checkpoint", *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(output), redirect_stderr(errors), narrow_vggish():
        patched.setattr(sys, "argv", words)
        return subprocess.CompletedProcess(words, main(), output.getvalue(), errors.getvalue())


def rejection(call: Callable[..., object], *arguments: object) -> str:
    """Return the message of the CheckpointError that a call raises, after checking that it is one line."""
    with pytest.raises(CheckpointError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def linked(source: Path, target: Path) -> Path:
    """Return a copy for tests to damage. It has hard links: replace its files, do not write into them."""
    return shutil.copytree(source, target, copy_function=os.link)


def put(path: Path, content: str | bytes) -> None:
    path.unlink()
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def perturb(tensor: Tensor, rank: int) -> None:
    """Add a random change of this rank, with a tenth of the tensor's standard deviation."""
    change = torch.randn(tensor.shape[0], rank) @ torch.randn(rank, tensor[0].numel())
    tensor += change.view_as(tensor) * (0.1 * tensor.std() / change.std())


@pytest.fixture(scope="module")
@torch.no_grad()
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a checkpoint that training starts from, which tests must not change."""
    directory = tmp_path_factory.mktemp("untrained") / "checkpoint"
    with narrow_vggish():
        create(directory, "minilm", vggish=None, seed=0)
    return directory


@pytest.fixture(scope="module")
@torch.no_grad()
def trained(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a checkpoint as low-rank training writes it, which tests must not change."""
    with narrow_vggish():
        loaded = load(untrained)
    torch.manual_seed(9)
    for name in TEXT_MATRICES:
        perturb(loaded.model.text_encoder.get_parameter(name), RANK)
    for name in AUDIO_MATRICES:
        perturb(loaded.model.vggish.get_parameter(name), RANK)
    perturb(loaded.model.vggish.get_parameter("features.3.weight"), 9)
    perturb(loaded.model.vggish.get_parameter("embeddings.4.weight"), 100)
    loaded.model.vggish.get_parameter("features.3.bias").fill_(0.01)
    loaded.model.text_encoder.get_parameter("embeddings.LayerNorm.weight").mul_(1.1)
    loaded.model.head.get_parameter("fusion.layers.3.bias").copy_(torch.arange(7.0))
    config = replace(loaded.config, temperatures=TEMPERATURES, confidence=CONFIDENCE, untrained=[])
    checkpoints.set_calibration(loaded.model.head, config)
    directory = tmp_path_factory.mktemp("trained") / "checkpoint"
    save(directory, loaded.model, config, loaded.tokenizer, "# Trained in a test\n")
    return directory


@pytest.fixture(scope="module")
def compacting(trained: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run `compact` on the trained checkpoint; return the compact checkpoint and the finished command."""
    directory = trained.parent / "compact"
    return directory, command("compact", trained, directory, "--rank", str(RANK))


@pytest.fixture(scope="module")
def compacted(compacting: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """Return the compact checkpoint, which tests must not change."""
    return compacting[0]


@pytest.fixture(scope="module")
def expanding(compacted: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run `expand` on the compact checkpoint; return the ordinary checkpoint and the finished command."""
    directory = compacted.parent / "expanded"
    return directory, command("expand", compacted, directory)


@pytest.fixture
def copy(compacted: Path, tmp_path: Path) -> Path:
    return linked(compacted, tmp_path / "copy")


def edit_config(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((directory / "config.json").read_text())
    edit(config)
    put(directory / "config.json", json.dumps(config))


# ---- round trip


def test_commands_compact_and_expand_print_their_results(
    compacting: tuple[Path, subprocess.CompletedProcess[str]], expanding: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    (small, compact_run), (large, expand_run) = compacting, expanding
    assert (compact_run.returncode, compact_run.stderr) == (0, "")
    assert re.fullmatch(
        rf"wrote {small} \(\d\.\d MiB\)\n"
        r"text_encoder: 0\.0\d% of the update lost\nvggish: 0\.0\d% of the update lost\n",
        compact_run.stdout,
    )
    assert (expand_run.returncode, expand_run.stdout, expand_run.stderr) == (0, f"wrote {large}\n", "")


def test_compact_stores_only_changes(compacted: Path) -> None:
    update = load_file(compacted / "update.safetensors")
    matrices = [f"text_encoder.{name}" for name in TEXT_MATRICES] + [f"vggish.{name}" for name in AUDIO_MATRICES]
    whole = ["text_encoder.embeddings.LayerNorm.weight", "vggish.features.3.weight", "vggish.features.3.bias"]
    whole += ["vggish.embeddings.4.weight"]
    encoders = {name for name in update if not name.startswith("fusion.")}
    assert encoders == {f"{name}.{side}" for name in matrices for side in ("left", "right")} | set(whole)
    assert update["vggish.embeddings.0.weight.left"].shape == (HIDDEN, RANK)
    assert update["vggish.embeddings.0.weight.right"].shape == (RANK, 6 * 4 * CHANNELS[-1][-1])
    assert update["vggish.embeddings.0.weight.left"].dtype == torch.float16
    assert update["fusion.fusion.layers.3.bias"].dtype == torch.float32


@torch.no_grad()
def test_expand_gives_the_predictions_of_the_original(trained: Path, expanding: tuple[Path, Any]) -> None:
    original, again = load(trained), load(expanding[0])
    torch.manual_seed(2)
    patches, counts = torch.randn(4, 96, 64) * 2 - 2, torch.tensor([2, 1, 1])
    ids = torch.from_numpy(WordPiece(original.tokenizer).encode("i am so happy that you came"))
    ids = torch.stack([ids, ids.flip(0), ids])
    mask = torch.tensor([1, 1, 0])[:, None].expand_as(ids)
    answers = []
    for model in (original.model, again.model):
        views = probabilities(model(patches, counts, ids, mask), counts > 0, mask.sum(1) > 0)
        answers.append(torch.stack([views.fused, views.audio, views.text]))
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-3)
    # the update changes the answers, so the comparison above is meaningful
    head = original.model.head
    start = checkpoints.seeded_vggish(0, True)
    assert (head.audio_head(start(patches)) - head.audio_head(original.model.vggish(patches))).abs().max() > 0.05
    for name, tensor in original.model.state_dict().items():
        scale = tensor.abs().max().item()
        torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=0, atol=max(1e-3 * scale, 1e-7))


def test_expand_writes_an_ordinary_checkpoint(trained: Path, compacted: Path, expanding: tuple[Path, Any]) -> None:
    original, again = load(trained), load(expanding[0])
    assert again.config.temperatures == TEMPERATURES
    assert again.model.head.temperature.tolist() == pytest.approx(list(TEMPERATURES.values()))
    assert again.config.confidence == CONFIDENCE
    assert torch.equal(again.model.head.confidence, original.model.head.confidence)
    assert (again.config.untrained, again.config.seed, again.config.format) == ([], 0, 2)
    assert again.config.sources["vggish"] == "seeded with 0 + rank-4 update"
    assert again.config.sources["text_encoder"].endswith("0.1.0) + rank-4 update")
    assert again.config.sources["fusion"] == original.config.sources["fusion"]
    assert again.tokenizer.read_bytes() == original.tokenizer.read_bytes()
    for directory in (compacted, expanding[0]):
        assert (directory / "model_card.md").read_text() == "# Trained in a test\n"
    assert again.digest == digest(expanding[0])
    names = [{str(path.relative_to(each)) for path in each.rglob("*")} for each in (trained, expanding[0])]
    assert names[0] == names[1]


def test_compact_of_unchanged_encoders_stores_no_update(untrained: Path, tmp_path: Path) -> None:
    report = compact(untrained, tmp_path / "compact", RANK)
    assert report.losses == {"text_encoder": 0.0, "vggish": 0.0}
    assert report.size < 2**20
    config = json.loads((tmp_path / "compact" / "config.json").read_text())
    assert config["sources"]["vggish"] == "seeded with 0"
    assert config["untrained"] == ["vggish", "fusion"]


def test_compact_with_too_low_a_rank_reports_the_loss(untrained: Path, tmp_path: Path) -> None:
    source = linked(untrained, tmp_path / "source")
    path = source / "text_encoder" / "model.safetensors"
    state = load_file(path)
    torch.manual_seed(3)
    left, right = (torch.linalg.qr(torch.randn(384, 384)).Q for _ in range(2))
    state[TEXT_MATRICES[0]] += left * torch.tensor([1.0] * RANK + [0.5] * RANK + [0.0] * (384 - 2 * RANK)) @ right
    path.unlink()
    save_file(state, path, {"format": "pt"})
    report = compact(source, tmp_path / "compact", RANK)
    # the singular values are 1 and 0.5; those of 0.5 are dropped
    assert report.losses["text_encoder"] == pytest.approx((0.25 / 1.25) ** 0.5, rel=1e-3)
    assert "44.72% of the update lost" in str(report)
    assert "warning: rank 4 does not hold the update of text_encoder; a higher rank keeps more" in str(report)
    assert "update of vggish;" not in str(report)
    enough = compact(source, tmp_path / "compact", 2 * RANK)  # replaces the first
    assert enough.losses["text_encoder"] < 1e-3
    assert "warning" not in str(enough)


# ---- checkpoints that compact rejects


def test_compact_with_a_rank_below_one_is_rejected(trained: Path, tmp_path: Path) -> None:
    assert rejection(compact, trained, tmp_path / "made", 0) == "the rank is 0; it must be at least 1"
    assert not list(tmp_path.iterdir())


def test_compact_without_a_seed_is_rejected(trained: Path, tmp_path: Path) -> None:
    source = linked(trained, tmp_path / "source")
    edit_config(source, lambda config: config.update(seed=None))
    assert "its config.json has no seed" in rejection(compact, source, tmp_path / "made", RANK)


@pytest.mark.parametrize("difference", ["heads", "tokenizer"])
def test_compact_with_another_encoder_than_minilm_is_rejected(trained: Path, tmp_path: Path, difference: str) -> None:
    source = linked(trained, tmp_path / "source")
    if difference == "heads":
        path = source / "text_encoder" / "config.json"
        put(path, json.dumps(json.loads(path.read_text()) | {"num_attention_heads": 6}))
    else:
        path = source / "text_encoder" / "tokenizer.json"
        put(path, path.read_text() + "\n")
    assert "its text encoder is not the pinned MiniLM" in rejection(compact, source, tmp_path / "made", RANK)


def test_compact_with_weights_that_are_not_finite_is_rejected(trained: Path, tmp_path: Path) -> None:
    source = linked(trained, tmp_path / "source")
    path = source / "text_encoder" / "model.safetensors"
    state = load_file(path)
    state[TEXT_MATRICES[0]][0, 0] = torch.nan
    path.unlink()
    save_file(state, path, {"format": "pt"})
    assert f"{TEXT_MATRICES[0]} holds numbers that are not finite" in rejection(
        compact, source, tmp_path / "made", RANK
    )


# ---- checkpoints that expand rejects


def test_load_and_expand_reject_each_others_formats(trained: Path, compacted: Path, tmp_path: Path) -> None:
    expected = (
        f"{compacted} is a compact checkpoint; "
        f"expand it first with: python -m emotion.checkpoint expand {compacted} DIR"
    )
    assert rejection(load, compacted) == expected
    assert rejection(compact, compacted, tmp_path / "made", RANK) == expected
    assert rejection(expand, trained, tmp_path / "made").startswith(f"{trained} is an ordinary checkpoint")


def test_expand_of_another_format_is_rejected(copy: Path, tmp_path: Path) -> None:
    edit_config(copy, lambda config: config.update(format="compact-1"))
    expected = "has format 'compact-1'; this version reads format 'compact-2': train the checkpoint again"
    assert expected in rejection(expand, copy, tmp_path / "made")


def shift(config: dict[str, Any]) -> None:
    config["start"]["vggish"]["embeddings.2.weight"][5] += 3e-5


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (shift, "VGGish's embeddings.2.weight as drawn with seed 0 and torch "),
        (lambda config: config.update(seed=1), "VGGish's features.0.weight as drawn with seed 1 and torch "),
        (lambda config: config.update(seed=None), "has no seed"),
        (lambda config: config["start"]["vggish"].pop("embeddings.0.weight"), "VGGish's embeddings.0.weight as drawn"),
        (lambda config: config["start"]["text_encoder"].update(minilm="0" * 64), "a MiniLM with sha256 000"),
        (lambda config: config.pop("start"), "its `start` is incomplete"),
        (lambda config: config["start"].update(vggish=[1.0]), "its `start` is incomplete"),
        (lambda config: config["temperatures"].update(fused=0), "the temperatures {'fused': 0, "),
    ],
    ids=["number", "other seed", "no seed", "numbers gone", "other MiniLM", "no start", "no names", "temperature"],
)
def test_expand_with_other_initial_weights_is_rejected(
    copy: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], expected: str
) -> None:
    edit_config(copy, edit)
    message = rejection(expand, copy, tmp_path / "made")
    assert str(copy / "config.json") in message
    assert expected in message
    assert not (tmp_path / "made").exists()


def test_expand_accepts_rounding_differences_of_initial_weights(copy: Path, tmp_path: Path) -> None:
    def deviate(config: dict[str, Any]) -> None:
        config["start"]["vggish"]["embeddings.2.weight"][5] += 3e-6

    edit_config(copy, deviate)
    save_file({}, copy / "empty.safetensors")
    (copy / "empty.safetensors").replace(copy / "update.safetensors")
    assert "lacks the tensor" in rejection(expand, copy, tmp_path / "made")  # checked after the initial weights


@pytest.mark.parametrize("name", ["config.json", "update.safetensors", "model_card.md"])
def test_expand_with_a_missing_file_names_it(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / name).unlink()
    assert (
        rejection(expand, copy, tmp_path / "made")
        == f"{copy / name} is missing; check the path, or copy the file again"
    )


def test_expand_with_a_damaged_update_is_rejected(copy: Path, tmp_path: Path) -> None:
    put(copy / "update.safetensors", (copy / "update.safetensors").read_bytes()[:-10])
    done = command("expand", copy, tmp_path / "made")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {copy / 'update.safetensors'} is damaged")
    assert done.stderr.count("\n") == 1


MATRIX = f"text_encoder.{TEXT_MATRICES[0]}"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda update: update.pop(f"{MATRIX}.left"), f"holds an incomplete update of {MATRIX}"),
        (lambda update: update.update({MATRIX: torch.zeros(384, 384)}), f"holds an incomplete update of {MATRIX}"),
        (
            lambda update: update.update({f"{MATRIX}.left": torch.zeros(384, RANK + 1)}),
            f"the update of {MATRIX} does not give its shape [384, 384]",
        ),
        (
            lambda update: update.update({f"{MATRIX}.left": torch.zeros(1, RANK)}),
            f"the update of {MATRIX} does not give its shape [384, 384]",
        ),
        (lambda update: update.pop("fusion.fusion.layers.0.bias"), "lacks the tensor fusion.layers.0.bias"),
        (lambda update: update.update(more=torch.zeros(1)), "has a tensor that the model lacks: more"),
    ],
    ids=["half of it", "too much", "misfit", "misshapen", "head incomplete", "unknown"],
)
def test_expand_with_a_wrong_update_is_rejected(
    copy: Path, tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], expected: str
) -> None:
    path = copy / "update.safetensors"
    update = load_file(path)
    edit(update)
    path.unlink()
    save_file(update, path)
    message = rejection(expand, copy, tmp_path / "made")
    assert message.startswith(str(path))
    assert expected in message
    assert not (tmp_path / "made").exists()


# ---- existing directories


def test_compact_in_another_directory_is_rejected_and_keeps_it(trained: Path, compacted: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    for message in (
        rejection(compact, trained, tmp_path / "thesis", RANK),
        rejection(expand, compacted, tmp_path / "thesis"),
    ):
        assert "thesis exists and is not a checkpoint; choose another" in message
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter.tex"]


def test_compact_onto_its_source_is_rejected(trained: Path, compacted: Path) -> None:
    before = digest(trained), digest(compacted)
    assert "is the checkpoint itself" in rejection(compact, trained, trained, RANK)
    assert "is the checkpoint itself" in rejection(expand, compacted, compacted)
    assert (digest(trained), digest(compacted)) == before
