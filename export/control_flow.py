"""Move parts of the exported graphs of `vggish` and `bert` into an ONNX Loop and an ONNX If.

The Loop and the If are added after the export, because ONNX Runtime's quantiser does not process their bodies.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

# by precision. In VGGish's first layers, a patch needs about 2 MB in fp32, and 4 MB with Winograd's convolutions
# (export/winograd.py). On CPUs, larger numbers need more memory and are no faster; fp16 is for GPUs.
PATCHES_PER_TURN = {"fp32": 16, "fp16": 32, "int8": 8}


def loop_patches(graph: ir.Graph, patches_per_turn: int) -> None:
    """Move VGGish's convolutions into a Loop that processes some of the patches at a time, to bound their memory.

    The dense layers stay outside the Loop: a patch needs little memory there, and their weights are read only once.

    Args:
        graph: the graph, changed in place; the shapes of its values must be inferred.
        patches_per_turn: largest number of patches that are processed at a time. All turns have equal numbers, as far
            as possible.
    """
    patches = next(node for node in graph if node.op_type == "Conv").inputs[0]  # [patches, 1, 96, 64]
    rows = [node for node in graph if node.op_type == "Reshape"][-1].outputs[0]  # [patches, features]
    assert patches is not None and rows.dtype is not None
    users = rows.uses()
    convolutions = _before(list(graph), [rows], patches)

    outside = Tape(graph)
    most = outside.initializer(ir.tensor([patches_per_turn], name="most"))
    one = outside.initializer(ir.tensor([1], name="one"))
    count = outside.op("Shape", [patches], {"start": 0, "end": 1})
    turns = _ceiling(outside, count, most, one)
    size = _ceiling(outside, count, outside.op("Max", [turns, one]), one)

    turn, condition = ir.val("turn", ir.DataType.INT64, []), ir.val("condition", ir.DataType.BOOL, [])
    earlier = ir.val("earlier_rows", rows.dtype, [None, _width(rows)])
    first, last = Tape(), Tape()
    start = first.op("Mul", [turn, size])
    axis = first.initializer(ir.tensor([0], name="first_axis"))
    turn_patches = first.op("Slice", [patches, start, first.op("Add", [start, size]), axis])
    for node in convolutions:
        for index, value in enumerate(node.inputs):
            if value is patches:
                node.replace_input_with(index, turn_patches)
    next_condition = last.op("Identity", [condition], output=ir.val("next_condition", ir.DataType.BOOL, []))
    next_rows = last.op("Concat", [earlier, rows], {"axis": 0}, output=ir.val("next_rows", rows.dtype, earlier.shape))
    nodes = [*first.nodes, *convolutions, *last.nodes]
    inputs, outputs = [turn, condition, earlier], [next_condition, next_rows]
    body = _subgraph("convolutions", graph, inputs, outputs, nodes, first.initializers)

    no_rows = outside.initializer(ir.tensor(np.zeros((0, _width(rows)), rows.dtype.numpy()), name="no_rows"))
    all_rows = outside.op("Loop", [outside.op("Squeeze", [turns]), None, no_rows], {"body": body})
    for node, index in users:
        node.replace_input_with(index, all_rows)
    graph.sort()


def _ceiling(tape: Tape, count: ir.Value, size: ir.Value, one: ir.Value) -> ir.Value:
    """Return count / size, rounded up."""
    return tape.op("Div", [tape.op("Add", [count, tape.op("Sub", [size, one])]), size])


def skip_unused(graph: ir.Graph) -> None:
    """Move the encoder of `vggish` or `bert` into an If that skips it if no utterance of the batch uses an element.

    Otherwise a single request with only text or only audio would also run the other encoder.

    Args:
        graph: the graph, changed in place; the shapes of its values must be inferred. Its second output, int32
            [batch, 1], is the number of elements that each utterance uses.
    """
    used = graph.outputs[1]
    # the encoder ends with the mean over each utterance's elements, which is the last product of two computed tensors
    weights = set(graph.initializers.values())
    products = [node for node in graph if node.op_type == "MatMul" and weights.isdisjoint(node.inputs)]
    [means] = products[-1].outputs
    users = means.uses()
    after = _after(graph, means)
    rest = [node for node in graph if node not in after]
    before = _before(rest, [used, *(value for node in after for value in node.inputs)], means)
    encoder = [node for node in rest if node not in before]

    then_branch = _subgraph("encoder", graph, [], [means], encoder)
    outside, skipped = Tape(graph), Tape()
    batch = outside.op("Shape", [used], {"start": 0, "end": 1})
    width = outside.initializer(ir.tensor([_width(means)], name="means_width"))
    shape = outside.op("Concat", [batch, width], {"axis": 0})
    zeros = skipped.op("ConstantOfShape", [shape], output=ir.val("zeros", means.dtype, means.shape))
    else_branch = _subgraph("nothing_used", graph, [], [zeros], skipped.nodes)
    max_used = outside.op("ReduceMax", [used], {"keepdims": 0})
    any_used = outside.op("Cast", [max_used], {"to": ir.DataType.BOOL})
    chosen = outside.op("If", [any_used], {"then_branch": then_branch, "else_branch": else_branch})
    for node, index in users:
        node.replace_input_with(index, chosen)
    graph.sort()


def _subgraph(
    name: str,
    graph: ir.Graph,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    nodes: Sequence[ir.Node],
    initializers: Iterable[ir.Value] = (),
) -> ir.Graph:
    """Move nodes into a new graph, with the initializers of `graph` that only they use."""
    graph.remove(node for node in nodes if node.graph is graph)
    needed = {value for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.inputs}
    moved = {key: value for key, value in graph.initializers.items() if value not in needed}
    for key in moved:
        del graph.initializers[key]
    return ir.Graph(inputs, outputs, nodes=nodes, initializers=[*moved.values(), *initializers], name=name)


def _width(rows: ir.Value) -> int:
    """Return the second dimension of a value with an inferred shape."""
    assert rows.shape is not None and isinstance(rows.shape[1], int), f"the width of {rows.name} is unknown"
    return rows.shape[1]


def _before(nodes: Sequence[ir.Node], values: Iterable[ir.Value | None], given: ir.Value) -> list[ir.Node]:
    """Return the nodes, in their order, that are needed to compute values from the value `given`."""
    found, needed = [], set(values) - {given}
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            found.append(node)
            needed |= set(node.inputs) - {given}
    return found[::-1]


def _after(nodes: Iterable[ir.Node], value: ir.Value) -> list[ir.Node]:
    """Return the nodes, in their order, that depend on a value."""
    found, reached = [], {value}
    for node in nodes:
        if not reached.isdisjoint(node.inputs):
            found.append(node)
            reached.update(node.outputs)
    return found
