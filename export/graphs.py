"""The three served models `vggish`, `bert` and `fusion`, written in torch and exported to ONNX.

Utterances of a batch lie end to end in one-dimensional ragged inputs. *_SHAPE [batch, dims], which Triton itself
writes, says how many elements each utterance has, and *_COUNT [batch, 1] how many of them are used. Nothing is padded:
operations on single patches or tokens run on the packed rows alone, and only BERT's attention product re-forms
[batch, longest].

No number in a request changes another request's answer or fails the run, as long as each request has at least one row
and one element: docs/upstream-zero-bytes.md says what Triton does with others. Execution providers differ in what
they do with empty tensors, so the exported file skips an encoder that no utterance of a batch uses
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


class Packing:
    """Where the used elements of a ragged batch are.

    At least one element must be used. In the exported file `export.control_flow.skip_unused` ensures it.

    Attributes:
        used: int64 [batch], elements per utterance.
        row, position: int64 [total], the utterance of each used element and its place in it.
        index: int64 [total], its place in the ragged input.
        valid: bool [batch, longest], which cells of the re-formed batch are used elements.
        padded: int64 [batch, longest], the packed row of each cell; an arbitrary one where the cell is not valid.
    """

    def __init__(self, count: Tensor, shape: Tensor, most: int | None = None) -> None:
        """Locate the used elements.

        Args:
            count: int32 [batch, 1], elements that an utterance uses, as its request says; more than it has are all.
            shape: int32 [batch, dims], of which the first dim is how many it has.
            most: elements of an utterance that can be used; None for no bound.
        """
        allotted = shape[:, 0].to(torch.int64)
        self.used = torch.minimum(count[:, 0].to(torch.int64).clamp(min=0, max=most), allotted)
        # Triton 24.10 to at least 26.06 copies nothing behind a request of zero bytes (docs/upstream-zero-bytes.md)
        self._copied = (allotted <= 0).to(torch.int64).cumsum(0) == 0
        longest = cast(int, self.used.max().item())  # int() would break the export
        # tells the exporter that this number drawn from data can be a size
        torch._check(longest >= 1)  # type: ignore[no-untyped-call]
        column = torch.arange(longest, device=count.device)
        self.valid = column[None, :] < self.used[:, None]
        self.row, self.position = torch.nonzero(self.valid, as_tuple=True)
        self.index = (allotted.cumsum(0) - allotted)[self.row] + self.position
        first = self.used.cumsum(0) - self.used
        self.padded = (first[:, None] + column[None, :]).clamp(max=self.row.shape[0] - 1)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over each utterance's used elements, [batch, width]; zero where it uses none.

        Args:
            values: [total, width].
        """
        # the mean is a product with zeros for all other rows, and zero times NaN would be NaN there
        finite = values.abs() <= torch.finfo(values.dtype).max
        means = segment_mean(values.where(finite, 0.0), self.row, self.used)
        return means.where((self.used > 0)[:, None], 0.0)

    def withhold_uncopied(self, embedding: Tensor) -> Tensor:
        """Return [batch, width] with NaN for utterances whose elements Triton did not copy into the batch.

        They hold what the memory held before, perhaps another caller's data: no answer is better than that one.
        """
        return embedding.where(self._copied[:, None], torch.nan)

    def used_column(self) -> Tensor:
        """Return `used` as the served models put it out, int32 [batch, 1]."""
        return self.used[:, None].to(torch.int32)


class ServedVGGish(nn.Module):
    """VGGish on the packed patches of a batch.

    PATCHES float32 [elements], PATCH_COUNT int32 [batch, 1], PATCHES_SHAPE int32 [batch, 3]
    -> AUDIO_EMBEDDING float32 [batch, 128], the mean over each utterance's patches, and PATCHES_USED int32 [batch, 1].
    """

    def __init__(self, vggish: VGGish) -> None:
        super().__init__()
        self.vggish = vggish

    def forward(self, patches: Tensor, patch_count: Tensor, patches_shape: Tensor) -> tuple[Tensor, Tensor]:
        packing = Packing(patch_count, patches_shape)
        dtype = next(self.vggish.parameters()).dtype
        embeddings = self.vggish(patches.reshape(-1, *PATCH_SHAPE)[packing.index].to(dtype)).float()
        return packing.withhold_uncopied(packing.mean(embeddings)), packing.used_column()


class ServedBert(nn.Module):
    """BERT on the packed tokens of a batch, and the projection of their mean.

    INPUT_IDS int64 [elements], TOKEN_COUNT int32 [batch, 1], AFTER int32 [batch, 1], INPUT_IDS_SHAPE int32 [batch, 1]
    -> TEXT_EMBEDDING float32 [batch, 256] and TOKENS_USED int32 [batch, 1].

    AFTER is not read: an ensemble that hands it an output of another model runs that model first.
    """

    def __init__(self, bert: BertModel, projection: nn.Module) -> None:
        super().__init__()
        embeddings = bert.embeddings
        self.words = embeddings.word_embeddings
        # one sentence per utterance: the token type is always 0, so its row joins the position table here and now
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
        # the least finite number rather than -inf: a row without tokens must not become NaN
        bias = bias.masked_fill(~packing.valid, torch.finfo(tokens.dtype).min)[:, None, None, :]
        heads = Heads(packing, self.heads)
        for layer in self.layers:
            tokens = layer(tokens, heads, bias)
        embedding = self.projection(packing.mean(tokens.float()))
        return packing.withhold_uncopied(embedding), packing.used_column()


class Heads:
    """Where every head's part of every token is, for all layers alike.

    A token's query, key and value of one head are a row of `head_size` numbers. Gathering such rows goes from the
    packed layout to the one that attention needs, and back, in one copy each; transposing and splitting took three.

    Attributes:
        query, key, value: int64 [batch, heads, longest], a row of the packed [total * 3 * heads, head_size].
        context: int64 [total, heads], a row of attention's [batch * heads * longest, head_size].
    """

    def __init__(self, packing: Packing, heads: int) -> None:
        head = torch.arange(heads, device=packing.row.device)
        first = packing.padded[:, None, :] * (3 * heads) + head[None, :, None]
        self.query, self.key, self.value = first, first + heads, first + 2 * heads
        longest = packing.padded.shape[1]
        self.context = (packing.row[:, None] * heads + head[None, :]) * longest + packing.position[:, None]


class PackedLayer(nn.Module):
    """One BERT layer on packed tokens [total, hidden]."""

    def __init__(self, layer: BertLayer) -> None:
        super().__init__()
        own: BertSelfAttention = layer.attention.self
        parts = (own.query, own.key, own.value)
        # one product instead of three; attention's scale is part of the query's weights
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
    """The head that turns two embeddings into the three views' probabilities and a confidence.

    AUDIO_EMBEDDING float32 [batch, 128], PATCHES_USED int32 [batch, 1], TEXT_EMBEDDING float32 [batch, 256],
    TOKENS_USED int32 [batch, 1] -> PROBABILITIES, AUDIO_PROBABILITIES, TEXT_PROBABILITIES, float32 [batch, 5] each,
    and CONFIDENCE float32 [batch, 1]. A modality of which nothing is used is absent.
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
