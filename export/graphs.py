"""The parts of the serving graph, written in torch and exported to ONNX.

Utterances of a batch lie end to end in one-dimensional ragged inputs. *_SHAPE [batch, dims], which Triton itself
writes, says how much of them belongs to whom, and *_COUNT [batch, 1] how much of that is used. Nothing is padded: every
operation that works on single patches or tokens runs on the packed rows alone, and only BERT's attention product
re-forms [batch, longest].

Whatever numbers a request holds, they change no answer but its own, and none makes the run fail for all.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention

from emotion.audio import PATCH_SHAPE
from emotion.model import FusionHead, Logits, VGGish, probabilities, segment_mean


class Packing:
    """Where the used elements of a ragged batch are.

    Attributes:
        used: int64 [batch], elements per utterance.
        row, position: int64 [total], the utterance of each used element and its place in it.
        index: int64 [total], its place in the ragged input.
        valid: bool [batch, longest], which cells of the re-formed batch are real.
        padded: int64 [batch, longest], the packed row of each cell; an arbitrary one where the cell is not real.
    """

    def __init__(self, count: Tensor, shape: Tensor, most: int | None = None) -> None:
        """
        Args:
            count: int32 [batch, 1], elements that an utterance uses, as its request says; more than it has are all.
            shape: int32 [batch, dims], of which the first dim is how many it has.
            most: elements of an utterance that can be used; None for no bound.
        """
        allotted = shape[:, 0].to(torch.int64)
        used = torch.minimum(count[:, 0].to(torch.int64).clamp(min=0, max=most), allotted)
        self.used = used
        longest = cast(int, used.max().item())  # int() would break the export
        # tells the exporter that this number drawn from data can be a size
        torch._check(longest >= 0)  # type: ignore[no-untyped-call]
        column = torch.arange(longest, device=used.device)
        self.valid = column[None, :] < used[:, None]
        self.row, self.position = torch.nonzero(self.valid, as_tuple=True)
        self.index = (allotted.cumsum(0) - allotted)[self.row] + self.position
        first = used.cumsum(0) - used
        self.padded = (first[:, None] + column[None, :]).clamp(max=self.row.shape[0] - 1)


class ServedVGGish(nn.Module):
    """PATCHES [elements], PATCH_COUNT [batch, 1], PATCHES_SHAPE [batch, 3] -> AUDIO_EMBEDDING [batch, 128].

    It is the mean over each row's patches.
    """

    def __init__(self, vggish: VGGish) -> None:
        super().__init__()
        self.vggish = vggish

    def forward(self, patches: Tensor, patch_count: Tensor, patches_shape: Tensor) -> Tensor:
        packing = Packing(patch_count, patches_shape)
        dtype = next(self.vggish.parameters()).dtype
        embeddings = self.vggish(patches.reshape(-1, *PATCH_SHAPE)[packing.index].to(dtype)).float()
        # the mean is a product with zeros for all other rows, and zero times NaN would be NaN there
        finite = embeddings.abs() <= torch.finfo(embeddings.dtype).max
        return segment_mean(embeddings.where(finite, 0.0), packing.row, packing.used)


class ServedBert(nn.Module):
    """INPUT_IDS [elements], TOKEN_COUNT [batch, 1], INPUT_IDS_SHAPE [batch, 1] -> TEXT_EMBEDDING [batch, 256].

    It is the projected mean of the tokens.
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

    def forward(self, input_ids: Tensor, token_count: Tensor, input_ids_shape: Tensor) -> Tensor:
        packing = Packing(token_count, input_ids_shape, most=self.places.shape[0])
        ids = input_ids[packing.index].clamp(0, self.words.num_embeddings - 1)
        tokens = self.norm(self.words(ids) + self.places[packing.position])
        bias = torch.zeros_like(packing.valid, dtype=tokens.dtype)
        # the least finite number rather than -inf: a row without tokens must not become NaN
        bias = bias.masked_fill(~packing.valid, torch.finfo(tokens.dtype).min)[:, None, None, :]
        heads = Heads(packing, self.heads)
        for layer in self.layers:
            tokens = layer(tokens, heads, bias)
        return self.projection(segment_mean(tokens.float(), packing.row, packing.used))


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
    """Embeddings and counts (a count of zero is an absent modality) -> the three views' probabilities."""

    def __init__(self, head: FusionHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, audio_embedding: Tensor, patch_count: Tensor, text_embedding: Tensor, token_count: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        has_audio, has_text = patch_count[:, 0] > 0, token_count[:, 0] > 0
        logits: Logits = self.head(audio_embedding, has_audio, text_embedding, has_text)
        views = probabilities(logits, has_audio, has_text)
        return views.fused, views.audio, views.text
