"""Test the torch modules: VGGish against the public release, the views of the head, mixed lengths."""

import re
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from emotion.labels import EMOTIONS
from emotion.model import (
    MIN_AGREEMENT,
    RESIDUAL_LIMIT,
    SMOOTHING,
    VIEWS,
    EmotionModel,
    Fusion,
    FusionHead,
    Logits,
    Probabilities,
    VGGish,
    confidence,
    contradiction,
    load_vggish_state,
    probabilities,
    segment_mean,
)

# Parameters of the public PyTorch release (harritaylor/torchvggish), without its PCA tables
PUBLIC_RELEASE = {
    "features.0.weight": (64, 1, 3, 3),
    "features.0.bias": (64,),
    "features.3.weight": (128, 64, 3, 3),
    "features.3.bias": (128,),
    "features.6.weight": (256, 128, 3, 3),
    "features.6.bias": (256,),
    "features.8.weight": (256, 256, 3, 3),
    "features.8.bias": (256,),
    "features.11.weight": (512, 256, 3, 3),
    "features.11.bias": (512,),
    "features.13.weight": (512, 512, 3, 3),
    "features.13.bias": (512,),
    "embeddings.0.weight": (4096, 12288),
    "embeddings.0.bias": (4096,),
    "embeddings.2.weight": (4096, 4096),
    "embeddings.2.bias": (4096,),
    "embeddings.4.weight": (128, 4096),
    "embeddings.4.bias": (128,),
}


@cache
def vggish() -> VGGish:
    """Return a seeded VGGish, whose parameters tests must not change."""
    torch.manual_seed(3)
    return VGGish(final_relu=False).eval()


@cache
def tiny_bert() -> BertModel:
    """Return a BERT of two layers, 16 wide; its large weights make attention to a wrong token visible."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=40, initializer_range=0.5, **sizes)
    return BertModel(config, add_pooling_layer=False).eval()


@cache
def model() -> EmotionModel:
    """Return a model of the modules above with a seeded head."""
    torch.manual_seed(7)
    return EmotionModel(vggish(), tiny_bert(), FusionHead(text_hidden=16)).eval()


def patches(count: int, seed: int = 0) -> Tensor:
    """Return random numbers in the range of log-mel, float32 [count, 96, 64]."""
    return torch.randn(count, 96, 64, generator=torch.Generator().manual_seed(seed)) - 2.0


def release_state() -> dict[str, Tensor]:
    """Return a state dict as torch.load gives it for the release's file, with PCA tables, but without storage."""
    state = {name: torch.zeros(1).expand(shape) for name, shape in PUBLIC_RELEASE.items()}
    return state | {"pproc.pca_eigen_vectors": torch.zeros(128, 128), "pproc.pca_means": torch.zeros(128, 1)}


def test_vggish_parameters_have_the_names_of_the_public_release() -> None:
    assert {name: tuple(tensor.shape) for name, tensor in vggish().state_dict().items()} == PUBLIC_RELEASE
    assert sum(parameter.numel() for parameter in vggish().parameters()) == 72_141_184


def test_vggish_layers_have_the_positions_of_the_public_release() -> None:
    pair = ["Conv2d", "ReLU"]
    blocks = [*pair, "MaxPool2d", *pair, "MaxPool2d", *pair, *pair, "MaxPool2d", *pair, *pair, "MaxPool2d"]
    assert [type(layer).__name__ for layer in vggish().features] == blocks
    kinds = ["Linear", "ReLU", "Linear", "ReLU", "Linear", "ReLU"]
    assert [type(layer).__name__ for layer in VGGish(final_relu=True).embeddings] == kinds


def test_load_vggish_state_accepts_the_public_release() -> None:
    loaded = VGGish()
    state = release_state()
    state["embeddings.4.bias"] = torch.arange(128.0)
    load_vggish_state(loaded, state)
    assert torch.equal(loaded.get_parameter("embeddings.4.bias"), torch.arange(128.0))
    assert not loaded.get_parameter("features.0.weight").any()


def test_load_vggish_state_with_a_missing_parameter_is_rejected() -> None:
    state = release_state()
    del state["features.8.bias"]
    with pytest.raises(ValueError, match=r"^VGGish parameters are missing: features\.8\.bias$"):
        load_vggish_state(vggish(), state)


def test_load_vggish_state_with_an_unknown_parameter_is_rejected() -> None:
    state = release_state() | {"fc.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"^these are not VGGish parameters: fc\.weight$"):
        load_vggish_state(vggish(), state)


def test_load_vggish_state_with_a_wrong_shape_is_rejected_before_loading() -> None:
    before = vggish().get_parameter("features.0.bias").clone()
    state = release_state() | {"embeddings.4.weight": torch.zeros(64, 4096)}
    with pytest.raises(ValueError, match=re.escape("embeddings.4.weight has shape [64, 4096], expected [128, 4096]")):
        load_vggish_state(vggish(), state)
    assert torch.equal(vggish().get_parameter("features.0.bias"), before)


@torch.no_grad()
def test_vggish_endings_differ_by_the_last_relu_alone() -> None:
    with_relu = VGGish(final_relu=True).eval()
    with_relu.load_state_dict(vggish().state_dict(), assign=True)
    linear, relu = vggish()(patches(3)), with_relu(patches(3))
    assert linear.shape == (3, 128)
    assert linear.min() < 0 < linear.max()
    assert torch.equal(relu, linear.clamp(min=0))


@torch.no_grad()
def test_vggish_flattens_feature_maps_in_tensorflow_order() -> None:
    """The row in the first dense layer is (height * 4 + width) * 512 + channel, as in the release's weights."""
    maps = vggish().features(patches(2)[:, None])
    assert maps.shape == (2, 512, 6, 4)
    array = maps.numpy()
    flat = np.empty((2, 6 * 4 * 512), np.float32)
    for height in range(6):
        for width in range(4):
            start = (height * 4 + width) * 512
            flat[:, start : start + 512] = array[:, :, height, width]
    expected = vggish().embeddings(torch.from_numpy(flat))
    torch.testing.assert_close(vggish()(patches(2)), expected, rtol=1e-5, atol=1e-6)


def test_segment_mean_equals_the_mean_of_each_segment() -> None:
    values = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 50.0]])
    mean = segment_mean(values, segment=torch.tensor([0, 0, 2]), counts=torch.tensor([2, 0, 1]))
    assert mean.tolist() == [[2.0, 20.0], [0.0, 0.0], [5.0, 50.0]]


def test_segment_mean_without_rows_is_zero() -> None:
    mean = segment_mean(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert torch.equal(mean, torch.zeros(2, 4))


def head_and_inputs() -> tuple[FusionHead, Tensor, Tensor]:
    """Return a head with a non-zero residual in evaluation mode, and embeddings of four utterances."""
    torch.manual_seed(11)
    head = FusionHead(text_hidden=16).eval()
    nn.init.normal_(head.get_parameter("fusion.layers.3.weight"))
    return head, torch.randn(4, 128), torch.randn(4, 256)


@torch.no_grad()
def test_head_with_one_modality_returns_its_view_as_fused() -> None:
    head, audio, text = head_and_inputs()
    has_audio, has_text = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    logits = head(audio, has_audio, text, has_text)
    assert torch.equal(logits.audio, head.audio_head(audio))
    assert torch.equal(logits.text, head.text_head(text))
    assert torch.equal(logits.fused[0], head.fusion(logits.audio, logits.text, audio, text)[0])
    assert torch.equal(logits.fused[1], logits.audio[1])
    assert torch.equal(logits.fused[2], logits.text[2])
    assert not torch.allclose(logits.fused[0], logits.audio[0])
    assert not torch.allclose(logits.audio, logits.text)


@torch.no_grad()
def test_head_ignores_the_embedding_of_an_absent_modality() -> None:
    head, audio, text = head_and_inputs()
    yes, no = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    assert torch.equal(head(audio, yes, text, no).fused, head(audio, yes, text + 9, no).fused)
    assert torch.equal(head(audio, no, text, yes).fused, head(audio + 9, no, text, yes).fused)


@torch.no_grad()
def test_head_divides_each_view_by_its_temperature() -> None:
    head, audio, text = head_and_inputs()
    has_audio, has_text = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    plain = head(audio, has_audio, text, has_text)
    by_view = {"fused": 0.5, "audio": 4.0, "text": 2.0}
    head.temperature.copy_(torch.tensor([by_view[view] for view in VIEWS]))
    scaled = head(audio, has_audio, text, has_text)
    torch.testing.assert_close(scaled.audio, plain.audio / 4.0)
    torch.testing.assert_close(scaled.text, plain.text / 2.0)
    weighted = head.fusion(scaled.audio, scaled.text, audio, text)  # the fusion weights the calibrated views
    torch.testing.assert_close(scaled.fused[0], weighted[0] / 0.5)
    assert torch.equal(scaled.fused[1], scaled.audio[1])  # one modality: the calibrated logits of its own head
    assert torch.equal(scaled.fused[2], scaled.text[2])


@torch.no_grad()
def test_fusion_before_training_adds_the_log_probabilities_of_the_views() -> None:
    torch.manual_seed(17)
    fusion = Fusion(hidden=8, dropout=0.0)
    audio_logits, text_logits = torch.randn(2, 50, len(EMOTIONS)).mul(3).unbind()
    fused = fusion(audio_logits, text_logits, torch.randn(50, 128), torch.randn(50, 256))
    expected = (audio_logits.softmax(-1) + SMOOTHING).log() + (text_logits.softmax(-1) + SMOOTHING).log()
    torch.testing.assert_close(fused, expected)


def agreeing_logits(count: int, generator: torch.Generator) -> Tensor:
    """Return logits [count, 5]: class 2 has MIN_AGREEMENT to 1, and often one other class has all the rest."""
    top = MIN_AGREEMENT + (1 - MIN_AGREEMENT) * torch.rand(count, generator=generator) ** 3
    rest = torch.rand(count, len(EMOTIONS), generator=generator) ** 20 + 1e-12
    rest[:, 2] = 0
    values = rest / rest.sum(1, keepdim=True) * (1 - top)[:, None]
    values[:, 2] = top
    return values.clamp(min=1e-12).log() + torch.randn(count, 1, generator=generator) * 10


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e6])
def test_fusion_of_agreeing_views_keeps_their_label_for_any_weights(scale: float) -> None:
    generator = torch.Generator().manual_seed(19)
    for seed in range(20):
        torch.manual_seed(seed)
        fusion = Fusion(hidden=8, dropout=0.0)
        for parameter in fusion.parameters():
            nn.init.normal_(parameter, std=scale)
        views = agreeing_logits(500, generator), agreeing_logits(500, generator)
        fused = fusion(*views, torch.randn(500, 128), torch.randn(500, 256))
        assert (fused.argmax(1) == 2).all()


@torch.no_grad()
def test_fusion_at_the_agreement_limit_keeps_the_label_with_the_largest_residual() -> None:
    """The bound in Fusion's docstring holds for the residual that is most against the label."""
    fusion = Fusion(hidden=8, dropout=0.0)
    label, other = 1, 3
    views = torch.full((1, len(EMOTIONS)), -20.0)
    views[0, label], views[0, other] = np.log(MIN_AGREEMENT), np.log(1 - MIN_AGREEMENT)
    for strengths in ((1e4, 1e4), (-1e4, -1e4), (1e4, -1e4), (0.0, 0.0)):
        against = torch.tensor([*strengths, 0.0, -1e4, 0.0, 1e4, 0.0])
        fusion.get_parameter("layers.3.bias").copy_(against)
        fused = fusion(views, views, torch.zeros(1, 128), torch.zeros(1, 256))
        assert fused.argmax(1).item() == label
    assert np.log((MIN_AGREEMENT + SMOOTHING) / (1 - MIN_AGREEMENT + SMOOTHING)) > 2 * RESIDUAL_LIMIT


def two_views(audio: list[float], text: list[float], fused: list[float]) -> Probabilities:
    return Probabilities(*(torch.tensor([view], dtype=torch.float64) for view in (fused, audio, text)))


YES, NO = torch.tensor([True]), torch.tensor([False])
NEUTRAL = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("audio", "text", "fused", "expected"),
    [
        ([0.8, 0.1, 0.1, 0, 0], [0.9, 0.1, 0, 0, 0], [0.95, 0.05, 0, 0, 0], 0.0),
        ([0.7, 0.2, 0.1, 0, 0], [0.1, 0.8, 0.1, 0, 0], [0.4, 0.6, 0, 0, 0], 0.5),  # the audio contradicts
        ([0.9, 0.1, 0, 0, 0], [0.1, 0.6, 0.3, 0, 0], [0.2, 0.2, 0.6, 0, 0], 0.9),  # both contradict, the audio more
    ],
)
def test_contradiction_is_the_margin_of_another_class_in_a_view(
    audio: list[float], text: list[float], fused: list[float], expected: float
) -> None:
    views = two_views(audio, text, fused)
    assert contradiction(views, YES, YES).tolist() == pytest.approx([expected])
    assert confidence(views, YES, YES, NEUTRAL).tolist() == pytest.approx([max(fused) * (1 - expected)])


def test_contradiction_of_an_absent_view_is_zero() -> None:
    nothing, given = [0.0] * 5, [0.2, 0.7, 0.1, 0.0, 0.0]
    for views, has_audio, has_text in (
        (two_views(nothing, given, given), NO, YES),
        (two_views(given, nothing, given), YES, NO),
        (two_views([torch.nan] * 5, given, given), NO, YES),  # an absent modality's embedding may be NaN
    ):
        assert confidence(views, has_audio, has_text, NEUTRAL).tolist() == pytest.approx([0.7])


def drawn_views(count: int) -> tuple[Probabilities, Tensor, Tensor]:
    """Return random views at all temperatures, with audio, text or both; the fused view is drawn independently."""
    generator = torch.Generator().manual_seed(23)
    logits = (
        torch.randn(3, count, len(EMOTIONS), generator=generator) * torch.rand(3, count, 1, generator=generator) * 20
    )
    has_audio, has_text = torch.rand(2, count, generator=generator) < 0.7
    has_text |= ~has_audio
    views = probabilities(Logits(*logits), has_audio, has_text)
    alone = torch.where(has_audio[:, None], views.audio, views.text)
    fused = torch.where((has_audio & has_text)[:, None], views.fused, alone)
    return Probabilities(fused, views.audio, views.text), has_audio, has_text


@pytest.mark.parametrize("coefficients", [(1.0, 0.0), (20.0, 0.0), (0.3, -2.0), (0.0, 0.0)])
def test_confidence_of_ties_and_contradictions_is_at_most_one_half(coefficients: tuple[float, float]) -> None:
    views, has_audio, has_text = drawn_views(5000)
    found = confidence(views, has_audio, has_text, torch.tensor([coefficients] * 3))
    assert ((found >= 0) & (found <= 1)).all()
    contradicted = contradiction(views, has_audio, has_text) >= 0.5
    assert contradicted.sum() > 100
    assert (found[contradicted] <= 0.5).all()
    tied = two_views([0.5, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0])
    assert confidence(tied, YES, YES, torch.tensor([coefficients] * 3)).item() <= 0.5


def test_confidence_rises_with_the_probability_and_falls_with_the_contradiction() -> None:
    views, has_audio, has_text = drawn_views(800)
    coefficients = torch.tensor([[1.7, -0.4]] * 3)
    found = confidence(views, has_audio, has_text, coefficients)
    disputed = contradiction(views, has_audio, has_text)
    for values, falling in ((views.fused.amax(1), disputed), (1 - disputed, 1 - views.fused.amax(1))):
        better = (values[:, None] >= values) & (falling[:, None] <= falling)
        assert (found[:, None] >= found - 1e-6)[better].all()
    assert found.max() > 0.9 > 0.1 > found.min()


def test_confidence_has_coefficients_for_each_kind_of_evidence() -> None:
    given, nothing = [0.8, 0.2, 0, 0, 0], [0.0] * 5
    coefficients = torch.tensor([[1.0, 0.0], [0.5, 0.0], [1.0, -1.0]], dtype=torch.float64)
    logit = np.log(0.8 / 0.2)
    for views, has_audio, has_text, value in (
        (two_views(given, given, given), YES, YES, logit),
        (two_views(given, nothing, given), YES, NO, 0.5 * logit),
        (two_views(nothing, given, given), NO, YES, logit - 1),
    ):
        found = confidence(views, has_audio, has_text, coefficients)
        assert found.tolist() == pytest.approx([1 / (1 + np.exp(-value))])


def test_confidence_of_extreme_probabilities_is_finite() -> None:
    sure = [1.0, 0.0, 0.0, 0.0, 0.0]
    for dtype in (torch.float16, torch.float32, torch.float64):
        coefficients = torch.tensor([[3.0, -0.5]] * 3, dtype=dtype)
        certain = Probabilities(*(torch.tensor([sure], dtype=dtype) for _ in range(3)))
        assert 0.99 < confidence(certain, YES, YES, coefficients).item() <= 1
        contradicted_views = Probabilities(certain.fused, certain.audio, certain.text.flip(1))
        assert 0 <= confidence(contradicted_views, YES, YES, coefficients).item() < 0.01
        withheld = Probabilities(certain.fused * torch.nan, certain.audio, certain.text)
        assert confidence(withheld, YES, YES, coefficients).item() == 0


def test_head_state_dict_excludes_calibration() -> None:
    names = FusionHead(text_hidden=16).state_dict()
    assert not [name for name in names if "temperature" in name or "confidence" in name]


def test_probabilities_sum_to_one_and_absent_rows_are_zero() -> None:
    torch.manual_seed(13)
    logits = Logits(*(8 * torch.randn(3, len(EMOTIONS)) for _ in range(3)))
    views = probabilities(logits, torch.tensor([True, False, True]), torch.tensor([True, True, False]))
    assert views.fused.sum(1).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)
    assert views.audio.sum(1).tolist() == pytest.approx([1.0, 0.0, 1.0], abs=1e-6)
    assert views.text.sum(1).tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-6)
    assert not views.audio[1].any()
    assert not views.text[2].any()
    assert torch.equal(views.fused.argmax(1), logits.fused.argmax(1))


@torch.no_grad()
def test_embed_text_does_not_depend_on_padding() -> None:
    ids = torch.tensor([[5, 9, 3, 0, 0, 0], [7, 8, 2, 4, 1, 6]])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    garbage = ids.masked_fill(mask == 0, 33)
    padded = model().embed_text(ids, mask)
    assert padded.shape == (2, 256)
    torch.testing.assert_close(padded[:1], model().embed_text(ids[:1, :3], mask[:1, :3]), rtol=0, atol=1e-6)
    torch.testing.assert_close(padded, model().embed_text(garbage, mask), rtol=0, atol=1e-6)
    other = model().embed_text(torch.tensor([[5, 9, 4]]), torch.ones(1, 3, dtype=torch.int64))
    assert (other - padded[:1]).abs().max() > 1e-3  # one changed token exceeds the tolerances above


@torch.no_grad()
def test_embed_text_projects_the_mean_of_all_tokens() -> None:
    ids = torch.tensor([[5, 9, 3]])
    states = tiny_bert()(input_ids=ids).last_hidden_state
    projection = model().head.text_projection
    assert isinstance(projection[0], nn.Linear)
    expected = torch.tanh(projection[0](states.mean(1)))
    torch.testing.assert_close(model().embed_text(ids, torch.ones_like(ids)), expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("longest", [0, 4])
def test_embed_text_without_tokens_projects_zero(longest: int) -> None:
    ids = torch.zeros(2, longest, dtype=torch.int64)
    embedding = model().embed_text(ids, torch.zeros_like(ids))
    expected = model().head.text_projection(torch.zeros(2, 16))
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_embed_text_row_without_tokens_does_not_change_others() -> None:
    ids = torch.tensor([[5, 9, 3], [0, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    together = model().embed_text(ids, mask)
    assert together.isfinite().all()
    torch.testing.assert_close(together[:1], model().embed_text(ids[:1], mask[:1]), rtol=0, atol=1e-6)


@torch.no_grad()
def test_embed_audio_is_the_mean_over_the_patches_of_each_utterance() -> None:
    batch = patches(3, seed=1)
    each = vggish()(batch)
    embedding = model().embed_audio(batch, torch.tensor([1, 0, 2]))
    expected = torch.stack([each[0], torch.zeros(128), each[1:].mean(0)])
    torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_embed_audio_without_patches_is_zero() -> None:
    assert torch.equal(model().embed_audio(torch.empty(0, 96, 64), torch.tensor([0, 0])), torch.zeros(2, 128))


@torch.no_grad()
def test_forward_derives_absent_modalities_from_counts() -> None:
    ids = torch.tensor([[5, 9], [0, 0], [8, 2]])
    mask = torch.tensor([[1, 1], [0, 0], [1, 1]])
    logits = model()(patches(3, seed=2), torch.tensor([1, 2, 0]), ids, mask)
    assert torch.equal(logits.fused[1], logits.audio[1])
    assert torch.equal(logits.fused[2], logits.text[2])
    assert not torch.allclose(logits.fused[0], logits.audio[0])
    assert not torch.allclose(logits.fused[0], logits.text[0])
