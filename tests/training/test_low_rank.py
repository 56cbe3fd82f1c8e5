"""Test that low-rank training gives an ordinary model with low-rank changes."""

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from emotion.checkpoint import seeded_vggish
from emotion.model import EmotionModel, FusionHead
from training import low_rank

RANK = 3


def build() -> EmotionModel:
    torch.manual_seed(1)
    bert = BertModel(
        BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
        add_pooling_layer=False,
    )
    return EmotionModel(seeded_vggish(1, True), bert, FusionHead(32)).eval()


def answers(model: EmotionModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(3, 96, 64, generator=generator)
    ids = torch.randint(0, 50, (2, 6), generator=generator)
    with torch.inference_mode():
        logits = model(patches, torch.tensor([1, 2]), ids, torch.ones_like(ids))
    return torch.stack([logits.fused, logits.audio, logits.text])


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, Tensor], EmotionModel, Tensor, Tensor, list[str]]:
    """Return the initial state, the merged model, its outputs before and after merging, and the trainable names."""
    model = build()
    names = [name for name, _ in model.named_modules()]
    start, state = answers(model), {name: value.clone() for name, value in model.state_dict().items()}
    low_rank.inject(model, RANK)
    torch.testing.assert_close(answers(model), start)  # injecting changes no output
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # as if trained
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    before = answers(model)
    assert (before - start).abs().max() > 1e-3
    low_rank.merge(model)
    assert [name for name, _ in model.named_modules()] == names
    return state, model, before, answers(model), trainable


def test_merge_changes_no_output(trained: tuple[dict[str, Tensor], EmotionModel, Tensor, Tensor, list[str]]) -> None:
    _, _, before, after, _ = trained
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_merge_restores_the_ordinary_modules(
    trained: tuple[dict[str, Tensor], EmotionModel, Tensor, Tensor, list[str]],
) -> None:
    state, model, _, _, _ = trained
    assert list(model.state_dict()) == list(state)
    assert type(model.text_encoder.encoder.layer[0].attention.self.query) is torch.nn.Linear
    build().load_state_dict(model.state_dict())


def test_inject_changes_large_matrices_by_the_rank(
    trained: tuple[dict[str, Tensor], EmotionModel, Tensor, Tensor, list[str]],
) -> None:
    state, model, _, _, _ = trained
    merged = model.state_dict()
    changed = {name for name, value in merged.items() if not torch.equal(value, state[name])}
    layers = [f"text_encoder.encoder.layer.{layer}" for layer in range(2)]
    matrices = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    expected = {f"{layer}.{matrix}.weight" for layer in layers for matrix in (*matrices, "intermediate.dense")}
    expected |= {f"{layer}.output.dense.weight" for layer in layers}
    assert changed == expected | {"vggish.embeddings.0.weight", "vggish.embeddings.2.weight"}
    for name in changed:
        difference = (merged[name] - state[name]).double()
        if name.startswith("vggish"):  # 64 rows are enough to measure the rank; the matrix has 12288 columns
            difference = difference[:64]
        values = torch.linalg.svdvals(difference)
        assert values[RANK - 1] > 1e-3 * values[0] and values[RANK] < 1e-3 * values[RANK - 1], name


def test_inject_freezes_the_large_matrices_of_vggish_alone(
    trained: tuple[dict[str, Tensor], EmotionModel, Tensor, Tensor, list[str]],
) -> None:
    trainable = set(trained[4])
    whole = {name for name in trainable if name.startswith("vggish") and "lora_" not in name}
    convolutions = {f"vggish.features.{n}.{kind}" for n in (0, 3, 6, 8, 11, 13) for kind in ("weight", "bias")}
    biases = {f"vggish.embeddings.{n}.base_layer.bias" for n in (0, 2)}
    assert whole == convolutions | biases | {"vggish.embeddings.4.weight", "vggish.embeddings.4.bias"}
    text = {name for name in trainable if name.startswith("text_encoder")}
    assert text and all("lora_" in name for name in text)
