"""The serving graphs, written in torch and exported to ONNX.

Utterances of a batch lie end to end in one-dimensional ragged inputs, and SPAN [batch, 2] = (used, allotted) elements
says which part of them belongs to whom. Nothing is padded: every operation that works on single patches or tokens runs
on the packed rows alone, and only BERT's attention product re-forms [batch, longest].
"""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import BertModel
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention

from emotion.audio import PATCH_ELEMENTS, PATCH_SHAPE
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

    def __init__(self, used: Tensor, allotted: Tensor) -> None:
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
    """PATCHES [elements], PATCH_SPAN [batch, 2] -> AUDIO_EMBEDDING [batch, 128]: the mean over each row's patches.

    TOKEN_SPAN is only handed on, as NEXT_TOKEN_SPAN: `bert` takes it from here, which makes the ensemble run one step
    at a time (model_repository/emotion/config.pbtxt says why).
    """

    def __init__(self, vggish: VGGish) -> None:
        super().__init__()
        self.vggish = vggish

    def forward(self, patches: Tensor, patch_span: Tensor, token_span: Tensor) -> tuple[Tensor, Tensor]:
        counts = patch_span.to(torch.int64) // PATCH_ELEMENTS
        packing = Packing(counts[:, 0], counts[:, 1])
        dtype = next(self.vggish.parameters()).dtype
        embeddings = self.vggish(patches.reshape(-1, *PATCH_SHAPE)[packing.index].to(dtype))
        return segment_mean(embeddings.float(), packing.row, packing.used), token_span.clone()


class ServedBert(nn.Module):
    """INPUT_IDS [elements], TOKEN_SPAN [batch, 2] -> TEXT_EMBEDDING [batch, 256]: the projected mean of the tokens."""

    def __init__(self, bert: BertModel, projection: nn.Module) -> None:
        super().__init__()
        embeddings = bert.embeddings
        self.words = embeddings.word_embeddings
        # one sentence per utterance: the token type is always 0, so its row joins the position table here and now
        self.places = nn.Parameter(embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0])
        self.norm = embeddings.LayerNorm
        self.layers = nn.ModuleList(PackedLayer(layer) for layer in bert.encoder.layer)
        self.projection = projection

    def forward(self, input_ids: Tensor, token_span: Tensor) -> Tensor:
        lengths = token_span.to(torch.int64)
        packing = Packing(lengths[:, 0], lengths[:, 1])
        tokens = self.norm(self.words(input_ids[packing.index]) + self.places[packing.position])
        bias = torch.zeros_like(packing.valid, dtype=tokens.dtype)
        # the least finite number rather than -inf: a row without tokens must not become NaN
        bias = bias.masked_fill(~packing.valid, torch.finfo(tokens.dtype).min)[:, None, None, :]
        for layer in self.layers:
            tokens = layer(tokens, packing, bias)
        return self.projection(segment_mean(tokens.float(), packing.row, packing.used))


class PackedLayer(nn.Module):
    """One BERT layer on packed tokens [total, hidden]."""

    def __init__(self, layer: BertLayer) -> None:
        super().__init__()
        own: BertSelfAttention = layer.attention.self
        parts = (own.query, own.key, own.value)
        self.qkv = nn.Linear(own.query.in_features, 3 * own.all_head_size)  # one product instead of three
        self.qkv.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.qkv.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        self.heads = own.num_attention_heads
        self.head_size = own.attention_head_size
        self.attention_output = layer.attention.output
        self.intermediate = layer.intermediate
        self.output = layer.output

    def forward(self, tokens: Tensor, packing: Packing, bias: Tensor) -> Tensor:
        batch, longest = packing.padded.shape
        qkv = self.qkv(tokens)[packing.padded].reshape(batch, longest, 3, self.heads, self.head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [batch, heads, longest, head_size] each
        scores = query @ key.transpose(-1, -2) * self.head_size**-0.5 + bias
        context = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, longest, self.heads * self.head_size)
        tokens = self.attention_output(context[packing.row, packing.position], tokens)
        return self.output(self.intermediate(tokens), tokens)


class ServedFusion(nn.Module):
    """Embeddings and spans (a span that uses nothing is an absent modality) -> the three views' probabilities."""

    def __init__(self, head: FusionHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, audio_embedding: Tensor, patch_span: Tensor, text_embedding: Tensor, token_span: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        has_audio, has_text = patch_span[:, 0] > 0, token_span[:, 0] > 0
        logits: Logits = self.head(audio_embedding, has_audio, text_embedding, has_text)
        views = probabilities(logits, has_audio, has_text)
        return views.fused, views.audio, views.text
