"""Quantise fp32 ONNX files to int8 for CPUs.

Weights have seven bits and one scale for each output channel. Without VNNI, the CPU's instruction for int8 products
adds pairs of products in 16 bits, and eight-bit weights would silently overflow. Inputs and outputs keep their types,
so the model configurations agree.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from emotion import audio
from export.speech import waveform

PRODUCTS = ("Gemm", "MatMul")  # operators that torch's exporter writes for dense layers
MAX_WEIGHT = 63  # signed seven bits
MAX_ACTIVATION = 127  # eight bits with a zero point of 128

CALIBRATION_UTTERANCES = 48
CALIBRATION_SECONDS = (1.0, 6.0)  # shortest and longest utterance
SEED = 7


def quantise_vggish(source: Path, target: Path) -> None:
    """Write the int8 file of VGGish; real speech calibrates the static ranges of its activations.

    Two parts stay fp32, because they cost little: the first convolution up to its pooling, whose input is the log-mel
    patch (rounding it doubled the change of the answers), and the mean over the patches.

    Args:
        source: the fp32 file.
        target: the int8 file to write.
    """
    model = onnx.load(source)
    stem = _relu_after_pooling(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    means = [node.name for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] not in weights]
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser recommends a preprocessing step that is not needed
    try:
        quantize_static(
            model,
            target,
            _Patches(_calibration_patches()),
            quant_format=QuantFormat.QDQ,
            # operators without weights are included, so that layers exchange int8
            op_types_to_quantize=["Conv", "Gemm", "Relu", "MaxPool", "Transpose", "Reshape"],
            nodes_to_exclude=[*stem, *means],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        logging.getLogger().setLevel(level)


def _relu_after_pooling(model: onnx.ModelProto) -> list[str]:
    """Replace the first convolution, ReLU and pooling by the equivalent convolution, pooling and max(., 0).

    With the original order, ONNX Runtime moves the following rounding to the output of the convolution. This output has
    four times as many numbers, and its int8 pooling is slow (43 of 330 ms for 56 patches).

    Returns:
        The names of the three nodes.
    """
    nodes = list(model.graph.node)
    conv, relu, pool = (next(node for node in nodes if node.op_type == kind) for kind in ("Conv", "Relu", "MaxPool"))
    assert relu.input[0] == conv.output[0] and pool.input[0] == relu.output[0]
    pooled, zero = pool.output[0], f"{relu.name}.zero"
    pool.input[0], pool.output[0] = conv.output[0], f"{pooled}.signed"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), zero))
    largest = helper.make_node("Max", [pool.output[0], zero], [pooled], name=f"{relu.name}.after_pooling")
    model.graph.node.remove(relu)
    model.graph.node.insert(nodes.index(pool), largest)  # one place later, because the ReLU was removed
    return [conv.name, pool.name, largest.name]


def _calibration_patches() -> Iterable[NDArray[np.float32]]:
    random = np.random.default_rng(SEED)
    speech = waveform()
    for _ in range(CALIBRATION_UTTERANCES):
        samples = int(random.uniform(*CALIBRATION_SECONDS) * audio.SAMPLE_RATE)
        start = random.integers(len(speech) - samples)
        yield audio.sound_patches(speech[start : start + samples])


class _Patches(CalibrationDataReader):  # type: ignore[misc]
    """The calibration data: the inputs of VGGish for one utterance at a time."""

    def __init__(self, patches: Iterable[NDArray[np.float32]]) -> None:
        self._patches = iter(patches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        for patches in self._patches:
            shape = np.array([patches.shape], np.int32)
            return {"PATCHES": patches.reshape(-1), "PATCH_COUNT": shape[:, :1], "PATCHES_SHAPE": shape}
        return None


def quantise_bert(source: Path, target: Path) -> None:
    """Write the int8 file of BERT; the activations of each token have their own scale, computed at run time.

    ONNX Runtime's own dynamic quantisation has one scale for a whole batch, so an answer would depend on the other
    utterances of the batch. With one scale for each token it does not, and the results are closer to fp32. The
    projection after the mean stays fp32.

    Args:
        source: the fp32 file.
        target: the int8 file to write.
    """
    model = onnx.load(source)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    dense = [node for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] in tensors]
    projection = dense[-1]  # the only dense layer after the mean
    scalars = {
        "one": np.float32(1),
        "activation_zero": np.uint8(MAX_ACTIVATION + 1),
        "weight_zero": np.int8(0),
        "step": np.float32(1 / MAX_ACTIVATION),
        "least": np.float32(1e-12),  # avoids a division by zero for a token of zeros
        "last_axis": np.array([-1], np.int64),
    }
    nodes: list[onnx.NodeProto] = []
    added = [numpy_helper.from_array(np.asarray(value), name) for name, value in scalars.items()]
    for node in model.graph.node:
        if node is projection or not any(node is each for each in dense):
            nodes.append(node)
            continue
        # x W' + b or x W, as torch's exporter writes dense layers
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        bias = node.input[2] if len(node.input) > 2 else ""
        weight = numpy_helper.to_array(tensors[node.input[1]])
        name = node.output[0]
        weights, scales = _quantise_weight(weight.T if transposed else weight)
        added += [
            numpy_helper.from_array(weights, f"{name}.weight"),
            numpy_helper.from_array(scales, f"{name}.weight_scale"),
        ]
        nodes += _per_token_product(node.input[0], name, bias)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    for field, values in ((model.graph.node, nodes), (model.graph.initializer, kept + added)):
        del field[:]
        field.extend(values)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.checker.check_model(model)
    onnx.save_model(model, target)


def _quantise_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a weight float32 [in, out] as int8 [in, out], and its scales float32 [out]."""
    scales = (np.maximum(np.abs(weight).max(axis=0), 1e-12) / MAX_WEIGHT).astype(np.float32)
    return np.ascontiguousarray(np.rint(weight / scales).astype(np.int8)), scales


def _per_token_product(tokens: str, name: str, bias: str) -> list[onnx.NodeProto]:
    """Return the nodes that compute `name` [total, out] = tokens [total, in] x int8 weight + bias.

    Args:
        tokens: name of the input.
        name: name of the output; it is also the prefix of the weight and its scales.
        bias: name of the bias; "" for no bias.
    """
    made = helper.make_node
    nodes = [
        made("Abs", [tokens], [f"{name}.abs"]),
        made("ReduceMax", [f"{name}.abs", "last_axis"], [f"{name}.largest"], keepdims=1),
        made("Max", [f"{name}.largest", "least"], [f"{name}.positive"]),
        made("Mul", [f"{name}.positive", "step"], [f"{name}.scale"]),
        made("Div", [tokens, f"{name}.scale"], [f"{name}.scaled"]),
        made("QuantizeLinear", [f"{name}.scaled", "one", "activation_zero"], [f"{name}.quantised"]),
        made(
            "MatMulIntegerToFloat",  # ONNX Runtime's operator; standard operators need two more passes over the result
            [f"{name}.quantised", f"{name}.weight", "one", f"{name}.weight_scale", "activation_zero", "weight_zero"],
            [f"{name}.product"],
            domain="com.microsoft",
        ),
        made("Mul", [f"{name}.product", f"{name}.scale"], [f"{name}.unbiased" if bias else name]),
    ]
    return [*nodes, made("Add", [f"{name}.unbiased", bias], [name])] if bias else nodes
