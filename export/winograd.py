"""Compute VGGish's convolutions with Winograd's minimal filtering, which needs a quarter of the multiplications.

F(4x4, 3x3) computes a tile of 4x4 outputs of a 3x3 convolution from 6x6 inputs with 36 products instead of 144 [1]:

    output = A' [(G filter G') * (B' input B)] A

The sum over the input channels makes each of the 36 products a matrix product over all tiles. G filter G' is computed
at export. B' input B is a product with the Kronecker product of B' with itself, [36, 36], and A' [...] A is one with
[16, 36]. The matrices are those of the Toom-Cook algorithm [2] for the points 0, 1, -1, 2, -2 and infinity.

Only standard ONNX operators are used. Activations are rows [positions, patches, channels], in which a position is a
pixel in the order that the previous layer produced. One Gather copies the inputs of all tiles. Its index has the
padding, the overlap of the tiles and the order of the pixels, so no layer transposes its activations.

[1] Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308.
[2] Blahut, Fast Algorithms for Signal Processing, Cambridge University Press, 2010, chapter 5.
"""

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.tape import Tape
from torch import Tensor, nn
from torch.nn import functional

from emotion.audio import PATCH_SHAPE

OUTPUTS = 4  # of a tile, in each dimension
TAPS = 3  # of a filter, in each dimension
INPUTS = OUTPUTS + TAPS - 1
POINTS = (0, 1, -1, 2, -2)  # and infinity
POOL = 2
# ONNX Runtime keeps constant matrices in the layout of its kernel, but not constant stacks of matrices, which it copies
# into that layout in every run. For matrices of at least this many numbers, 36 single products are faster.
SEPARATE_MATRICES = 2**17

Matrix = NDArray[np.float64]


class WinogradFeatures(nn.Module):
    """VGGish's convolutions: log-mel patches [patches, 96, 64] -> feature rows [patches, 12288].

    The first convolution is computed directly, because it has only one input channel.
    """

    order: Tensor

    def __init__(self, features: nn.Sequential) -> None:
        """Transform the filters.

        Args:
            features: `emotion.model.VGGish.features`, a sequence of 3x3 convolutions, ReLUs and 2x2 poolings.
        """
        super().__init__()
        layers = list(features)
        self.first = nn.Sequential(*layers[:3])  # convolution, ReLU, pooling
        height, width = (size // POOL for size in PATCH_SHAPE)
        positions = np.arange(height * width).reshape(height, width)
        self.convolutions = nn.ModuleList()
        for layer, after_relu in zip(layers[3:], layers[5:], strict=False):
            if isinstance(layer, nn.Conv2d):
                convolution = WinogradConvolution(layer, positions, isinstance(after_relu, nn.MaxPool2d))
                self.convolutions.append(convolution)
                positions = convolution.positions
        self.register_buffer("order", torch.from_numpy(positions.reshape(-1)))

    def forward(self, patches: Tensor) -> Tensor:
        rows = self.first(patches.unsqueeze(1)).flatten(2).permute(2, 0, 1)
        for convolution in self.convolutions:
            rows = convolution(rows)
        # TensorFlow's order: height, width, channel
        return rows.index_select(0, self.order).transpose(0, 1).flatten(1)


class WinogradConvolution(nn.Module):
    """A zero-padded 3x3 convolution with a ReLU, followed by a 2x2 max pooling if `pooled`.

    Rows [positions, patches, channels] -> rows [positions, patches, filters].

    Attributes:
        positions: int64 [height, width], the position of each output pixel in the result.
    """

    index: Tensor
    input_transform: Tensor
    output_transform: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d, positions: NDArray[np.int64], pooled: bool) -> None:
        """Transform the filters.

        Args:
            convolution: the convolution.
            positions: int64 [height, width], the position of each pixel in the input. Both sizes are multiples of 4.
            pooled: whether the convolution is followed by a 2x2 max pooling.
        """
        super().__init__()
        output_matrix, filter_matrix, input_matrix = matrices()
        weight = convolution.weight.detach().double().numpy()
        self.filters, self.channels, self.pooled = weight.shape[0], weight.shape[1], pooled
        transformed = np.einsum("ai,bj,fcij->abcf", filter_matrix, filter_matrix, weight)
        self.transformed = _parameter(transformed.reshape(INPUTS**2, self.channels, self.filters))
        self.register_buffer("bias", convolution.bias)

        height, width = positions.shape
        down, across = height // OUTPUTS, width // OUTPUTS
        tiles = down * across
        padded = np.pad(positions, TAPS // 2, constant_values=positions.size)  # `forward` appends a row of zeros
        tops, lefts = (OUTPUTS * np.arange(count) for count in (down, across))
        inputs = np.arange(INPUTS)
        index = padded[inputs[:, None, None, None] + tops[:, None], inputs[:, None, None] + lefts]
        self.register_buffer("index", torch.from_numpy(index.reshape(-1)))
        self.register_buffer("input_transform", _parameter(np.kron(input_matrix, input_matrix)))

        # the outputs of a tile as [member, pixel]: the members of a pooled pixel are the first axis
        size = POOL if pooled else 1
        pixels = OUTPUTS // size
        outputs = np.arange(OUTPUTS**2).reshape(pixels, size, pixels, size).transpose(1, 3, 0, 2)
        self.register_buffer("output_transform", _parameter(np.kron(output_matrix, output_matrix)[outputs.reshape(-1)]))
        pixel = np.arange(pixels**2).reshape(1, pixels, 1, pixels)
        tile = np.arange(tiles).reshape(down, 1, across, 1)
        self.positions = (pixel * tiles + tile).reshape(down * pixels, across * pixels)

    def forward(self, rows: Tensor) -> Tensor:
        padded = functional.pad(rows, (0, 0, 0, 0, 0, 1))  # a row of zeros
        tiles = padded.index_select(0, self.index).reshape(INPUTS**2, -1)
        inputs = (self.input_transform @ tiles).reshape(INPUTS**2, -1, self.channels)
        outputs = self.output_transform @ (inputs @ self.transformed).reshape(INPUTS**2, -1)
        if self.pooled:
            for _ in range(POOL):  # ReduceMax takes three times as long in ONNX Runtime
                outputs = torch.maximum(*outputs.chunk(2))
        return (outputs.reshape(self.positions.size, -1, self.filters) + self.bias).relu()


def separate_products(graph: ir.Graph) -> None:
    """Replace each product with a stack of large matrices by products with the single matrices.

    torch's exporter is slower if the module computes the single products itself.

    Args:
        graph: the exported graph, changed in place.
    """
    for node in list(graph):
        stack = node.inputs[1] if node.op_type == "MatMul" else None
        if stack is None or stack.name is None or stack.const_value is None:
            continue
        large = stack.const_value.numpy()
        if large.ndim != 3 or large[0].size < SEPARATE_MATRICES:
            continue
        tape = Tape(graph)
        names = (f"{stack.name}.{index}" for index in range(len(large)))
        weights = [tape.initializer(ir.tensor(matrix, name=name)) for matrix, name in zip(large, names, strict=True)]
        split = {"axis": 0, "num_outputs": len(large)}
        parts = tape.op_multi_out("Split", [node.inputs[0]], split, num_outputs=len(large))
        products = [tape.op("MatMul", [part, weight]) for part, weight in zip(parts, weights, strict=True)]
        node.outputs[0].replace_all_uses_with(tape.op("Concat", products, {"axis": 0}))
        graph.remove(node, safe=True)
        del graph.initializers[stack.name]
    graph.sort()


def matrices() -> tuple[Matrix, Matrix, Matrix]:
    """Return A' [4, 6], G [6, 3] and B' [6, 6] of F(4, 3).

    For a filter g [3] and inputs d [6], A' ((G g) * (B' d)) are the 4 outputs. Each column of A' and each row of G has
    the powers of one of POINTS, G divided by the point's Lagrange denominator; each row of B' has the coefficients of
    the polynomial whose zeros are the other points. The last ones belong to infinity [2].
    """
    outputs, filters, inputs = np.zeros((OUTPUTS, INPUTS)), np.zeros((INPUTS, TAPS)), np.zeros((INPUTS, INPUTS))
    for row, point in enumerate(POINTS):
        others = [each for each in POINTS if each != point]
        outputs[:, row] = np.power(float(point), np.arange(OUTPUTS))
        filters[row] = np.power(float(point), np.arange(TAPS)) / np.prod(np.subtract(point, others))
        inputs[row, : len(POINTS)] = np.poly(others)[::-1]
    outputs[-1, -1] = filters[-1, -1] = 1.0
    inputs[-1] = np.poly(POINTS)[::-1]
    return outputs, filters, inputs


def _parameter(values: Matrix) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(values.astype(np.float32)), requires_grad=False)
