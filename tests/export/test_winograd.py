"""VGGish's convolutions by Winograd's minimal filtering, beside the direct ones."""

import numpy as np
import pytest
import torch
from torch import nn

from emotion.model import VGGish
from export import winograd
from export.winograd import INPUTS, OUTPUTS, TAPS, WinogradConvolution, WinogradFeatures


def test_matrices_give_the_outputs_of_a_filter() -> None:
    outputs, filters, inputs = winograd.matrices()
    random = np.random.default_rng(0)
    values, taps = random.normal(size=INPUTS), random.normal(size=TAPS)
    expected = [values[at : at + TAPS] @ taps for at in range(OUTPUTS)]
    np.testing.assert_allclose(outputs @ ((filters @ taps) * (inputs @ values)), expected, rtol=1e-12)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
@torch.no_grad()
def test_convolution_equals_the_direct_one(pooled: bool, separate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels of the input are in an arbitrary order."""
    monkeypatch.setattr(winograd, "SEPARATE_FILTERS", 0 if separate else np.inf)
    torch.manual_seed(0)
    direct = nn.Conv2d(8, 6, 3, padding=1)
    images = torch.randn(3, 8, 12, 16)
    expected = direct(images).relu()
    if pooled:
        expected = nn.functional.max_pool2d(expected, 2)
    positions = np.random.default_rng(0).permutation(12 * 16).reshape(12, 16)
    rows = torch.empty(12 * 16, 3, 8)
    rows[torch.from_numpy(positions.reshape(-1))] = images.flatten(2).permute(2, 0, 1)
    convolution = WinogradConvolution(direct, positions, pooled)
    found = convolution(rows)[torch.from_numpy(convolution.positions)]  # [height, width, images, channels]
    torch.testing.assert_close(found.permute(2, 3, 0, 1), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_features_equal_those_of_vggish() -> None:
    vggish = random_vggish()
    patches = torch.randn(3, 96, 64)
    expected = vggish.feature_rows(patches)
    difference = (WinogradFeatures(vggish.features)(patches) - expected).abs().max()
    assert difference < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
@torch.no_grad()
def test_invalid_patch_changes_no_other_patch(value: float) -> None:
    features = WinogradFeatures(random_vggish().features)
    patches = torch.randn(3, 96, 64)
    expected = features(patches)
    patches[1] = value
    found = features(patches)
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], atol=0, rtol=0)


def random_vggish() -> VGGish:
    """Return a VGGish whose features neither vanish nor grow from layer to layer."""
    torch.manual_seed(0)
    vggish = VGGish()
    for layer in vggish.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.normal_(layer.bias)
    return vggish
