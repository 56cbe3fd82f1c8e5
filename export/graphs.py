"""The three served models `vggish`, `bert` and `fusion` as torch modules that are exported to ONNX.

The utterances of a batch are concatenated in one-dimensional ragged inputs. *_SHAPE [batch, dims], which Triton itself
writes, has the number of elements of each utterance, and *_COUNT [batch, 1] the number of used elements. Nothing is
padded: operations on single patches or tokens run on the packed rows, and only BERT's attention product uses the layout
[batch, longest].

No value in a request can change the answer of another request or fail the run, if each request has at least one row and
one element. docs/upstream-zero-bytes.md describes what Triton does with other requests. Execution providers handle
empty tensors differently, so the exported file skips an encoder that no utterance of a batch uses
(export/control_flow.py).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention

from emotion.audio import PATCH_SHAPE
from emotion.model import FusionHead, Logits, VGGish, confidence, probabilities, segment_mean
from export.winograd import WinogradFeatures


class Packing:
    """The positions of the used elements of a ragged batch.

    At least one element must be used. In the exported file `export.control_flow.skip_unused` ensures this.

    Attributes:
        used: int64 [batch], number of used elements of each utterance.
        row, position: int64 [total], the utterance of each used element, and its position in the utterance.
        index: int64 [total], the position of each used element in the ragged input.
        valid: bool [batch, longest], whether a cell of the padded layout is a used element.
        padded: int64 [batch, longest], the packed row of each cell; arbitrary if the cell is not valid.
    """

    def __init__(self, count: Tensor, shape: Tensor, most: int | None = None) -> None:
        """Compute the positions of the used elements.

        Args:
            count: int32 [batch, 1], number of used elements as the request claims; a larger number than the utterance
                has means all of them.
            shape: int32 [batch, dims]; the first dim is the number of elements of the utterance.
            most: largest number of elements of an utterance that can be used; None for no limit.
        """
        allotted = shape[:, 0].to(torch.int64)
        self.used = torch.minimum(count[:, 0].to(torch.int64).clamp(min=0, max=most), allotted)
        # Triton 24.10 to at least 26.06 copies no request behind one of zero bytes (docs/upstream-zero-bytes.md)
        self._copied = (allotted <= 0).to(torch.int64).cumsum(0) == 0
        longest = cast(int, self.used.max().item())  # torch.export can't trace int()
        # lets the exporter use this data-dependent number as a size
        torch._check(longest >= 1)  # type: ignore[no-untyped-call]
        column = torch.arange(longest, device=count.device)
        self.valid = column[None, :] < self.used[:, None]
        self.row, self.position = torch.nonzero(self.valid, as_tuple=True)
        self.index = (allotted.cumsum(0) - allotted)[self.row] + self.position
        first = self.used.cumsum(0) - self.used
        self.padded = (first[:, None] + column[None, :]).clamp(max=self.row.shape[0] - 1)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over each utterance's used elements, [batch, width]; zero if it uses none.

        Args:
            values: one row for each used element, [total, width].
        """
        # the mean multiplies the rows of other utterances by zero, and zero times NaN would be NaN
        finite = values.abs() <= torch.finfo(values.dtype).max
        means = segment_mean(values.where(finite, 0.0), self.row, self.used)
        return means.where((self.used > 0)[:, None], 0.0)

    def withhold_uncopied(self, embedding: Tensor) -> Tensor:
        """Return the embedding [batch, width] with NaN for utterances whose elements Triton did not copy.

        Their elements are stale memory, possibly data of another caller, so they must not be used.
        """
        return embedding.where(self._copied[:, None], torch.nan)

    def used_column(self) -> Tensor:
        """Return `used` as the output of the served models, int32 [batch, 1]."""
        return self.used[:, None].to(torch.int32)


class ServedVGGish(nn.Module):
    """VGGish for the packed patches of a batch.

    PATCHES float32 [elements], PATCH_COUNT int32 [batch, 1], PATCHES_SHAPE int32 [batch, 3]
    -> AUDIO_EMBEDDING float32 [batch, 128], the mean over each utterance's patches, and PATCHES_USED int32 [batch, 1].
    """

    def __init__(self, vggish: VGGish, winograd: bool = False) -> None:
        """Wrap VGGish.

        Args:
            vggish: the encoder.
            winograd: whether the convolutions are computed as in `export.winograd`.
        """
        super().__init__()
        self.vggish = vggish
        self.winograd = WinogradFeatures(vggish.features) if winograd else None

    def forward(self, patches: Tensor, patch_count: Tensor, patches_shape: Tensor) -> tuple[Tensor, Tensor]:
        packing = Packing(patch_count, patches_shape)
        dtype = next(self.vggish.parameters()).dtype
        used = patches.reshape(-1, *PATCH_SHAPE)[packing.index].to(dtype)
        rows = self.vggish.feature_rows(used) if self.winograd is None else self.winograd(used)
        embeddings = self.vggish.embeddings(rows).float()
        return packing.withhold_uncopied(packing.mean(embeddings)), packing.used_column()


class ServedBert(nn.Module):
    """BERT for the packed tokens of a batch, with the projection of their mean.

    INPUT_IDS int64 [elements], TOKEN_COUNT int32 [batch, 1], AFTER int32 [batch, 1], INPUT_IDS_SHAPE int32 [batch, 1]
    -> TEXT_EMBEDDING float32 [batch, 256] and TOKENS_USED int32 [batch, 1].

    AFTER is not read. An ensemble maps the output of another model to it, so that the other model runs first.
    """

    def __init__(self, bert: BertModel, projection: nn.Module) -> None:
        super().__init__()
        embeddings = bert.embeddings
        self.words = embeddings.word_embeddings
        # the token type is always 0, so its embedding is added to the position table at export
        self.places = nn.Parameter(embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0])
        self.norm = embeddings.LayerNorm
        self.heads = bert.config.num_attention_heads
        self.layers = nn.ModuleList(PackedLayer(layer) for layer in bert.encoder.layer)
        self.projection = projection

    def forward(
        self, input_ids: Tensor, token_count: Tensor, after: Tensor, input_ids_shape: Tensor
    ) -> tuple[Tensor, Tensor]:
        packing = Packing(token_count, input_ids_shape, most=self.places.shape[0])
        ids = input_ids[packing.index].clamp(0, self.words.num_embeddings - 1)
        tokens = self.norm(self.words(ids) + self.places[packing.position])
        bias = torch.zeros_like(packing.valid, dtype=tokens.dtype)
        # the lowest finite number instead of -inf, because a row without tokens would become NaN
        bias = bias.masked_fill(~packing.valid, torch.finfo(tokens.dtype).min)[:, None, None, :]
        heads = Heads(packing, self.heads)
        for layer in self.layers:
            tokens = layer(tokens, heads, bias)
        embedding = self.projection(packing.mean(tokens.float()))
        return packing.withhold_uncopied(embedding), packing.used_column()


class Heads:
    """The row indices of each head's part of each token, which are the same for all layers.

    A token's query, key and value of one head are a row of `head_size` numbers. Gathering these rows converts between
    the packed layout and the layout of attention with one copy each way; transposing and splitting needs three.

    Attributes:
        query, key, value: int64 [batch, heads, longest], rows of the packed [total * 3 * heads, head_size].
        context: int64 [total, heads], rows of attention's output [batch * heads * longest, head_size].
    """

    def __init__(self, packing: Packing, heads: int) -> None:
        head = torch.arange(heads, device=packing.row.device)
        first = packing.padded[:, None, :] * (3 * heads) + head[None, :, None]
        self.query, self.key, self.value = first, first + heads, first + 2 * heads
        longest = packing.padded.shape[1]
        self.context = (packing.row[:, None] * heads + head[None, :]) * longest + packing.position[:, None]


class PackedLayer(nn.Module):
    """One BERT layer for packed tokens [total, hidden]."""

    def __init__(self, layer: BertLayer) -> None:
        super().__init__()
        own: BertSelfAttention = layer.attention.self
        parts = (own.query, own.key, own.value)
        # one product instead of three; the scale of attention is part of the query's weights
        scales = (own.attention_head_size**-0.5, 1.0, 1.0)
        self.qkv = nn.Linear(own.query.in_features, 3 * own.all_head_size)
        self.qkv.weight = nn.Parameter(torch.cat([part.weight * by for part, by in zip(parts, scales, strict=True)]))
        self.qkv.bias = nn.Parameter(torch.cat([part.bias * by for part, by in zip(parts, scales, strict=True)]))
        self.head_size = own.attention_head_size
        self.attention_output = layer.attention.output
        self.intermediate = layer.intermediate
        self.output = layer.output

    def forward(self, tokens: Tensor, heads: Heads, bias: Tensor) -> Tensor:
        parts = self.qkv(tokens).reshape(-1, self.head_size)
        # [batch, heads, longest, head_size] each
        query, key, value = (functional.embedding(at, parts) for at in (heads.query, heads.key, heads.value))
        scores = query @ key.transpose(-1, -2) + bias
        context = (scores.softmax(-1) @ value).reshape(-1, self.head_size)
        context = functional.embedding(heads.context, context).flatten(1)
        tokens = self.attention_output(context, tokens)
        return self.output(self.intermediate(tokens), tokens)


class ServedFusion(nn.Module):
    """The fusion head: it maps two embeddings to the probabilities of three views and a confidence.

    AUDIO_EMBEDDING float32 [batch, 128], PATCHES_USED int32 [batch, 1], TEXT_EMBEDDING float32 [batch, 256],
    TOKENS_USED int32 [batch, 1] -> PROBABILITIES, AUDIO_PROBABILITIES, TEXT_PROBABILITIES, float32 [batch, 5] each,
    and CONFIDENCE float32 [batch, 1]. A modality without used elements is absent.
    """

    def __init__(self, head: FusionHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, audio_embedding: Tensor, patches_used: Tensor, text_embedding: Tensor, tokens_used: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        has_audio, has_text = patches_used[:, 0] > 0, tokens_used[:, 0] > 0
        logits: Logits = self.head(audio_embedding, has_audio, text_embedding, has_text)
        views = probabilities(logits, has_audio, has_text)
        sure = confidence(views, has_audio, has_text, self.head.confidence)
        return views.fused, views.audio, views.text, sure[:, None]
