"""Test that Winograd's minimal filtering gives the results of VGGish's direct convolutions."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from emotion.model import VGGish
from export import winograd
from export.winograd import INPUTS, OUTPUTS, TAPS, WinogradConvolution, WinogradFeatures, separate_products


def test_matrices_give_the_outputs_of_a_filter() -> None:
    outputs, filters, inputs = winograd.matrices()
    random = np.random.default_rng(0)
    values, taps = random.normal(size=INPUTS), random.normal(size=TAPS)
    expected = [values[at : at + TAPS] @ taps for at in range(OUTPUTS)]
    np.testing.assert_allclose(outputs @ ((filters @ taps) * (inputs @ values)), expected, rtol=1e-12)


@pytest.mark.parametrize("pooled", [False, True])
@torch.no_grad()
def test_convolution_equals_the_direct_one(pooled: bool) -> None:
    """The convolution accepts the pixels of its input in any order."""
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


@pytest.mark.parametrize(("large", "products"), [(4 * 5, 3), (4 * 5 + 1, 1)])
def test_separate_products_splits_only_stacks_of_large_matrices(
    large: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "SEPARATE_MATRICES", large)
    random = np.random.default_rng(0)
    stack, rows = (random.normal(size=size).astype(np.float32) for size in ((3, 4, 5), (3, 7, 4)))
    model = ir.from_onnx_text(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        agraph (float[3, n, 4] rows) => (float[3, n, 5] result) {
            product = MatMul(rows, stack)
            result = Identity(product)
        }
    """,
        initializers=[ir.tensor(stack, name="stack")],
    )
    separate_products(model.graph)
    assert [node.op_type for node in model.graph].count("MatMul") == products
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    [found] = session.run(["result"], {"rows": rows})
    np.testing.assert_allclose(found, rows @ stack, rtol=1e-6)


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
