"""Export torch modules to checked ONNX files that Triton's native ONNX Runtime backend can load."""

import copy
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass, ShapeInferencePass
from torch import Tensor, nn
from torch.export import Dim

from emotion.audio import PATCH_ELEMENTS, PATCH_SHAPE
from emotion.checkpoint import Checkpoint
from emotion.model import AUDIO_EMBEDDING, TEXT_EMBEDDING
from export.control_flow import PATCHES_PER_TURN, loop_patches, skip_unused
from export.graphs import ServedBert, ServedFusion, ServedVGGish
from export.quantisation import quantise_bert, quantise_vggish
from export.repository import model_file
from export.winograd import separate_products

# ONNX Runtime 1.19.2 in Triton 24.10 reads opset <= 21 and IR version <= 10; Gelu exists since opset 20
OPSET = 20
IR_VERSION = 10
# Weights of at least this many bytes are in a file of their own, which ONNX Runtime maps into memory instead of reading
# it. This halves the time to load a model, and the memory that the weights occupy beside their copy for the kernels.
DATA_THRESHOLD = 2**15
PAGE = 4096  # alignment of the weights in that file, in bytes


@dataclass
class Part:
    """One served model and its inputs and outputs.

    Attributes:
        module: the torch module.
        inputs: example inputs by name, in the order of the module's arguments.
        dynamic: the dynamic dimensions of each input, for torch.export.
        outputs: names of the outputs.
        quantise: writes the int8 file (second path) of the fp32 file (first path); None if the part is always fp32.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: tuple[dict[int, Any], ...]
    outputs: tuple[str, ...]
    quantise: Callable[[Path, Path], None] | None

    def precision(self, wanted: str) -> str:
        """Return the precision of the part in an export with the precision `wanted`."""
        return wanted if self.quantise else "fp32"


def serving_parts(checkpoint: Checkpoint, precision: str) -> dict[str, Part]:
    """Return the models that Triton serves with ONNX Runtime, by name, in the order of their runs.

    Args:
        checkpoint: the checkpoint.
        precision: fp32, fp16 or int8. Only fp32, which is for CPUs, has Winograd's convolutions: cuDNN chooses the
            algorithm by itself, and their intermediate results need a larger range than fp16 and int8 have.
    """
    model, batch = checkpoint.model, Dim("batch")
    count, allotted = torch.tensor([[[3], [0], [5], [2]], [[4], [1], [5], [2]]], dtype=torch.int32)
    patches_shape = torch.cat([allotted, torch.tensor([PATCH_SHAPE] * 4, dtype=torch.int32)], 1)
    return {
        "vggish": Part(
            ServedVGGish(model.vggish, winograd=precision == "fp32"),
            {
                "PATCHES": torch.zeros(12 * PATCH_ELEMENTS),
                "PATCH_COUNT": count,
                "PATCHES_SHAPE": patches_shape,
            },
            ({0: PATCH_ELEMENTS * Dim("patches")}, {0: batch}, {0: batch}),
            ("AUDIO_EMBEDDING", "PATCHES_USED"),
            quantise_vggish,
        ),
        "bert": Part(
            ServedBert(model.text_encoder, model.head.text_projection),
            {
                "INPUT_IDS": torch.zeros(12, dtype=torch.int64),
                "TOKEN_COUNT": count,
                "AFTER": torch.zeros_like(count),
                "INPUT_IDS_SHAPE": allotted,
            },
            ({0: Dim("tokens")}, {0: batch}, {0: batch}, {0: batch}),
            ("TEXT_EMBEDDING", "TOKENS_USED"),
            quantise_bert,
        ),
        "fusion": Part(
            ServedFusion(model.head),
            {
                "AUDIO_EMBEDDING": torch.zeros(4, AUDIO_EMBEDDING),
                "PATCHES_USED": count,
                "TEXT_EMBEDDING": torch.zeros(4, TEXT_EMBEDDING),
                "TOKENS_USED": count.clone(),  # torch.export treats a tensor that is passed twice as one input
            },
            ({0: batch},) * 4,
            ("PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES", "CONFIDENCE"),
            quantise=None,  # int8 gains nothing for a few thousand products, and would round the probabilities
        ),
    }


def write_models(
    parts: Mapping[str, Part],
    repository: Path,
    precision: str,
    metadata: Mapping[str, str],
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Export each part as the ONNX file of its model in a model repository, with a file of its large weights.

    Args:
        parts: the models, as `serving_parts` returns them.
        repository: directory in which NAME/1/FILE is written for each part.
        precision: fp32, fp16 or int8; inputs and outputs are the same for all, so that the configurations agree.
        metadata: entries of the files' metadata_props; each file's precision is added.
        advance: called after each part, for a progress display.

    Raises:
        OSError: a file can't be written.
    """
    for name, part in parts.items():
        own = part.precision(precision)
        path = model_file(repository, name, precision)
        path.parent.mkdir(parents=True, exist_ok=True)
        model = export_part(part, own, path.parent)
        separate_products(model.graph)
        ShapeInferencePass()(model)
        if name == "vggish":
            loop_patches(model.graph, PATCHES_PER_TURN[own])
        if name != "fusion":
            skip_unused(model.graph)
        NameFixPass()(model)  # makes names unique across the graph and its subgraphs
        model.metadata_props.update({**metadata, "precision": own})
        ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=DATA_THRESHOLD, alignment=PAGE)
        # ONNX's checker can't infer the shapes of ONNX Runtime's own int8 operators
        onnx.checker.check_model(path, full_check=own != "int8")
        advance()


def export_part(part: Part, precision: str, scratch: Path) -> ir.Model:
    """Return one part as an ONNX model, without VGGish's Loop and without the If around an encoder.

    Args:
        part: the model.
        precision: fp32, fp16 or int8.
        scratch: directory for the files that int8 needs meanwhile; they are removed.

    Raises:
        OSError: a file can't be written.
    """
    module = part.module.eval()
    if precision == "fp16":
        module = _to_fp16(module)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecation warnings inside torch's exporter
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(part.inputs.values()),
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_shapes=part.dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # None only if export() writes the file itself
    model = program.model
    model.ir_version = IR_VERSION
    model.producer_name = "emoserve"
    _strip_traces(model)
    if precision == "int8":
        assert part.quantise is not None
        ShapeInferencePass()(model)
        with TemporaryDirectory(dir=scratch) as directory:
            full, quantised = Path(directory, "fp32.onnx"), Path(directory, "int8.onnx")
            ir.save(model, full)
            part.quantise(full, quantised)
            model = ir.load(quantised)
    return model


def _to_fp16(module: nn.Module) -> nn.Module:
    """Return a copy with fp16 weights; the text projection stays fp32, because it runs after the mean of the tokens."""
    half = copy.deepcopy(module).half()
    if isinstance(half, ServedBert):
        half.projection.float()
    return half


def _strip_traces(model: ir.Model) -> None:
    """Remove the source paths and stack traces that torch's exporter adds to nodes and values."""
    ClearMetadataAndDocStringPass()(model)
    graph = model.graph
    computed = (value for node in graph for value in node.outputs)
    for value in (*computed, *graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
