"""Bounds the memory of VGGish's convolutions with a loop inside the ONNX graph."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

PATCHES_AT_A_TIME = 32  # of which each needs about 2 MB in fp32 in VGGish's first layers


def bound_patches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return VGGish's graph with its convolutions in a Loop, which runs PATCHES_AT_A_TIME patches each turn.

    The dense layers stay outside: a patch needs little memory there, and their weights should be read only once.
    """
    model = onnx.shape_inference.infer_shapes(model)
    patches = next(node for node in model.graph.node if node.op_type == "Conv").input[0]  # [patches, 1, 96, 64]
    flat = [node for node in model.graph.node if node.op_type == "Reshape"][-1].output[0]  # [patches, features]
    convolutions = Extractor(model).extract_model([patches], [flat]).graph
    inside = {node.output[0] for node in convolutions.node}
    outside = [node for node in model.graph.node if node.output[0] not in inside]
    needed = {name for node in outside for name in node.input}

    made, value = helper.make_node, helper.make_tensor_value_info
    number = convolutions.output[0].type.tensor_type.elem_type
    features = convolutions.output[0].type.tensor_type.shape.dim[1].dim_value
    body = helper.make_graph(
        [
            made("Mul", ["turn", "size"], ["start"]),
            made("Add", ["start", "size"], ["end"]),
            made("Slice", [patches, "start", "end", "first_axis"], ["these_patches"]),
            *(_renamed(node, {patches: "these_patches", flat: "these_rows"}) for node in convolutions.node),
            made("Concat", ["rows", "these_rows"], ["more_rows"], axis=0),
            made("Identity", ["condition"], ["same_condition"]),
        ],
        "convolutions",
        [
            value("turn", TensorProto.INT64, []),
            value("condition", TensorProto.BOOL, []),
            value("rows", number, [None, features]),
        ],
        [value("same_condition", TensorProto.BOOL, []), value("more_rows", number, [None, features])],
        [*convolutions.initializer, _integer("size", PATCHES_AT_A_TIME), _integer("first_axis", 0)],
    )
    loop = [
        made("Shape", [patches], ["patch_count"], start=0, end=1),
        made("Add", ["patch_count", "size_less_one"], ["patch_count_and_more"]),
        made("Div", ["patch_count_and_more", "loop_size"], ["turn_count"]),  # rounded up
        made("Squeeze", ["turn_count"], ["turns"]),
        made("Loop", ["turns", "", "no_rows"], [flat], body=body),
    ]
    constants = [
        _integer("size_less_one", PATCHES_AT_A_TIME - 1),
        _integer("loop_size", PATCHES_AT_A_TIME),
        helper.make_tensor("no_rows", number, [0, features], []),
    ]
    place = next(index for index, node in enumerate(outside) if flat in node.input)
    bounded = onnx.ModelProto()
    bounded.CopyFrom(model)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    for field, values in (
        (bounded.graph.node, [*outside[:place], *loop, *outside[place:]]),
        (bounded.graph.initializer, [*kept, *constants]),
        (bounded.graph.value_info, []),  # shapes of what is inside now
    ):
        del field[:]
        field.extend(values)
    return bounded


def _integer(name: str, number: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([number], np.int64), name)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.input[:] = [names.get(name, name) for name in node.input]
    copied.output[:] = [names.get(name, name) for name in node.output]
    return copied
