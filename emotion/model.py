"""The torch modules: VGGish for audio, BERT for text, and the head that fuses them.

Everything is written for mixed lengths: the patches and tokens of a batch of utterances lie end to end, and an
utterance without audio or without text simply has none of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertModel

from emotion.audio import PATCH_SHAPE
from emotion.labels import EMOTIONS

AUDIO_EMBEDDING = 128  # VGGish's own
VIEWS = ("fused", "audio", "text")  # what an utterance is judged by
TEXT_EMBEDDING = 256  # one size whatever the encoder's hidden size, so that serving configurations don't change with it


class VGGish(nn.Module):
    """VGGish (Hershey et al., 2017): log-mel patches -> 128 numbers each.

    The parameters carry the names of the public PyTorch release (`features.N`, `embeddings.N`), so that its state dict
    loads as it is. Google's TensorFlow original ends before the last ReLU, the PyTorch release after it: `final_relu`.
    """

    def __init__(self, final_relu: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for block in ((64,), (128,), (256, 256), (512, 512)):
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        flat = channels * (PATCH_SHAPE[0] // 16) * (PATCH_SHAPE[1] // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, AUDIO_EMBEDDING),
            nn.ReLU() if final_relu else nn.Identity(),
        )
        self.final_relu = final_relu

    def forward(self, patches: Tensor) -> Tensor:
        """[patches, 96, 64] log-mel -> [patches, 128]."""
        maps = self.features(patches.unsqueeze(1))
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # TensorFlow's order: height, width, channel


class FusionHead(nn.Module):
    """Three views of an utterance: from the audio alone, from the text alone, from both.

    The text projection is BERT's pooler (dense + tanh) on the mean of the tokens instead of the first. It belongs to
    the head because it is trained with it, but is served at the end of BERT's part of the graph.

    Attributes:
        temperature: [3], what the logits of each view in VIEWS are divided by (temperature scaling, Guo et al., 2017).
            All ones until fitted; config.json keeps it, not the state dict.
    """

    temperature: Tensor

    def __init__(self, text_hidden: int, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        self.text_hidden = text_hidden

        def head(inputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, len(EMOTIONS))
            )

        self.text_projection = nn.Sequential(nn.Linear(text_hidden, TEXT_EMBEDDING), nn.Tanh())
        self.audio_head = head(AUDIO_EMBEDDING)
        self.text_head = head(TEXT_EMBEDDING)
        self.fusion = head(AUDIO_EMBEDDING + TEXT_EMBEDDING)
        self.register_buffer("temperature", torch.ones(len(VIEWS)), persistent=False)

    def forward(self, audio: Tensor, has_audio: Tensor, text: Tensor, has_text: Tensor) -> "Logits":
        """
        Args:
            audio: [batch, 128] mean VGGish embedding; text: [batch, 256] projected text embedding.
            has_audio, has_text: bool [batch]. Where one is missing, the fused view is the other one's.
        """
        audio_logits = self.audio_head(audio) / self.temperature[VIEWS.index("audio")]
        text_logits = self.text_head(text) / self.temperature[VIEWS.index("text")]
        both = self.fusion(torch.cat([audio, text], dim=-1)) / self.temperature[VIEWS.index("fused")]
        one = torch.where(has_audio[:, None], audio_logits, text_logits)
        return Logits(torch.where((has_audio & has_text)[:, None], both, one), audio_logits, text_logits)


@dataclass
class Logits:
    """Unnormalised, calibrated scores [batch, 5] of the fused view and of either modality alone."""

    fused: Tensor
    audio: Tensor
    text: Tensor


@dataclass
class Probabilities:
    """[batch, 5] each; a modality's row is all zero where it is absent."""

    fused: Tensor
    audio: Tensor
    text: Tensor


def probabilities(logits: Logits, has_audio: Tensor, has_text: Tensor) -> Probabilities:
    """Softmax of the three views, with absent modalities zeroed."""
    return Probabilities(
        logits.fused.softmax(-1),
        logits.audio.softmax(-1) * has_audio[:, None].to(logits.audio.dtype),
        logits.text.softmax(-1) * has_text[:, None].to(logits.text.dtype),
    )


def segment_mean(values: Tensor, segment: Tensor, counts: Tensor) -> Tensor:
    """Mean of the rows of each segment; zero for an empty one.

    A matrix product rather than a scatter: deterministic, and fast wherever it runs.

    Args:
        values: [n, width]; segment: int [n], the segment of each row; counts: int [segments], rows per segment.

    Returns:
        [segments, width].
    """
    member = torch.arange(counts.shape[0], device=segment.device)[:, None] == segment[None, :]
    return member.to(values.dtype) / counts.clamp(min=1)[:, None].to(values.dtype) @ values


class EmotionModel(nn.Module):
    """VGGish, a BERT and the fusion head as one module: what training trains and export is held to."""

    def __init__(self, vggish: VGGish, text_encoder: BertModel, head: FusionHead) -> None:
        super().__init__()
        self.vggish = vggish
        self.text_encoder = text_encoder
        self.head = head

    def embed_audio(self, patches: Tensor, counts: Tensor) -> Tensor:
        """[patches, 96, 64] of all utterances end to end, and int [batch] patches of each -> [batch, 128]."""
        segment = torch.repeat_interleave(torch.arange(counts.shape[0], device=counts.device), counts)
        return segment_mean(self.vggish(patches), segment, counts)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int [batch, longest] each, padded -> [batch, 256]; a row without tokens is the projection of zero."""
        return self.head.text_projection(self.mean_tokens(input_ids, attention_mask))

    def mean_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int [batch, longest] each, padded -> the encoder's mean state [batch, hidden]; zero without tokens."""
        if input_ids.shape[1] == 0:  # nobody has text: one cell of padding, as BERT can't take none
            input_ids = attention_mask = input_ids.new_zeros(len(input_ids), 1)
        states = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.to(torch.bool)[..., None]
        return states.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)

    def forward(self, patches: Tensor, patch_counts: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Logits:
        """Logits of a batch of utterances; shapes as in `embed_audio` and `embed_text`."""
        return self.head(
            self.embed_audio(patches, patch_counts),
            patch_counts > 0,
            self.embed_text(input_ids, attention_mask),
            attention_mask.sum(1) > 0,
        )


def load_vggish_state(vggish: VGGish, state: Mapping[str, Tensor]) -> None:
    """Load a state dict of the public PyTorch release (`features.*`, `embeddings.*`; its PCA tables are ignored).

    Raises:
        ValueError: parameters missing, unknown or of another shape.
    """
    own = vggish.state_dict()
    given = {name: tensor for name, tensor in state.items() if not name.startswith("pproc.")}
    if missing := sorted(own.keys() - given.keys()):
        raise ValueError(f"VGGish parameters are missing: {', '.join(missing)}")
    if unknown := sorted(given.keys() - own.keys()):
        raise ValueError(f"these are not VGGish parameters: {', '.join(unknown)}")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"VGGish parameter {name} has shape {list(tensor.shape)}, expected {list(own[name].shape)}"
            )
    vggish.load_state_dict(given)
