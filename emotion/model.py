"""Define the torch modules: VGGish for audio, BERT for text, and the head that fuses them.

All modules take mixed lengths: the patches of a batch of utterances are concatenated, and an utterance without audio
or without text has zero patches or zero tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertModel

from emotion.audio import PATCH_SHAPE
from emotion.labels import EMOTIONS

AUDIO_EMBEDDING = 128  # VGGish's own
VGGISH_CHANNELS = ((64,), (128,), (256, 256), (512, 512))  # of the convolutions before each pooling
VGGISH_HIDDEN = 4096  # width of the fully connected layers
VIEWS = ("fused", "audio", "text")  # of an utterance: both modalities, audio alone, text alone
TEXT_EMBEDDING = 256  # independent of the encoder's hidden size, so that serving configurations are too
MIN_AGREEMENT = 0.6  # a label that both views give this probability is the fused label
SMOOTHING = 0.05  # added by fusion to each probability of a view
RESIDUAL_LIMIT = 0.18  # per unit of weight; below ln((0.6 + 0.05) / (0.4 + 0.05)) / 2 = 0.184, see Fusion
WEIGHT_RANGE = 1.5  # natural logarithm: a view's weight is between 0.22 and 4.5
LOGIT_LIMIT = 1e-3  # distance from 0 and 1; logits of closer probabilities would be infinite in float16


class VGGish(nn.Module):
    """VGGish (Hershey et al., 2017): log-mel patches -> 128 numbers each.

    The parameters carry the names of the public PyTorch release (`features.N`, `embeddings.N`), so that its state dict
    loads as it is. Google's TensorFlow original ends before the last ReLU, the PyTorch release after it: `final_relu`.
    """

    def __init__(self, final_relu: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for block in VGGISH_CHANNELS:
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        flat = channels * (PATCH_SHAPE[0] // 16) * (PATCH_SHAPE[1] // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, VGGISH_HIDDEN),
            nn.ReLU(),
            nn.Linear(VGGISH_HIDDEN, VGGISH_HIDDEN),
            nn.ReLU(),
            nn.Linear(VGGISH_HIDDEN, AUDIO_EMBEDDING),
            nn.ReLU() if final_relu else nn.Identity(),
        )
        self.final_relu = final_relu

    def forward(self, patches: Tensor) -> Tensor:
        """Return the embeddings of log-mel patches: [patches, 96, 64] -> [patches, 128]."""
        return self.embeddings(self.feature_rows(patches))

    def feature_rows(self, patches: Tensor) -> Tensor:
        """Return the output of the convolutions: [patches, 96, 64] -> [patches, 12288]."""
        maps: Tensor = self.features(patches.unsqueeze(1))
        return maps.permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order: height, width, channel


def _two_layers(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Return fully connected layers, [batch, inputs] -> [batch, outputs]."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))


class Fusion(nn.Module):
    """Weigh the two unimodal views, and correct the sum by a bounded residual.

        fused = w_a * log(p_a + SMOOTHING) + w_t * log(p_t + SMOOTHING) + RESIDUAL_LIMIT * (w_a + w_t) * tanh(r)
        w = exp(WEIGHT_RANGE * tanh(s))

    p_a and p_t are the calibrated probabilities of the views; fully connected layers make s [2] and r [5] from both
    embeddings. Their last layer begins at zero, so a new fusion is the sum of the views' logarithms: Bayes' rule for
    two independent observations and equal priors, apart from SMOOTHING, which keeps a view from excluding a class that
    was absent from its training.

    Where both views give one label at least MIN_AGREEMENT, that is the fused label, whatever the layers learned. Any
    other class has at most 1 - MIN_AGREEMENT in either view, so each logarithm is at least ln(0.65 / 0.45) = 0.367
    higher for the label. The weighted sum keeps at least 0.367 * (w_a + w_t) of that. The residual of the label and
    that of the other class differ by at most 2 * RESIDUAL_LIMIT * (w_a + w_t) = 0.36 * (w_a + w_t).
    """

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = _two_layers(AUDIO_EMBEDDING + TEXT_EMBEDDING, hidden, 2 + len(EMOTIONS), dropout)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, audio_logits: Tensor, text_logits: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Return fused logits [batch, 5].

        Args:
            audio_logits, text_logits: [batch, 5], of the views, divided by their temperatures.
            audio, text: [batch, 128] and [batch, 256], the embeddings that they come from.
        """
        strength, residual = self.layers(torch.cat([audio, text], dim=-1)).tanh().split([2, len(EMOTIONS)], dim=-1)
        weights = (WEIGHT_RANGE * strength).exp()
        views = torch.stack([audio_logits, text_logits], dim=1).softmax(-1)
        weighted = (weights[:, :, None] * (views + SMOOTHING).log()).sum(1)
        return weighted + RESIDUAL_LIMIT * weights.sum(1, keepdim=True) * residual


class FusionHead(nn.Module):
    """Compute three views of an utterance: from the audio alone, from the text alone, from both.

    The text projection is BERT's pooler (dense + tanh) on the mean of the tokens instead of the first. It belongs to
    the head because it is trained with it, but is served at the end of BERT's part of the graph.

    Attributes:
        temperature: [3], what the logits of each view in VIEWS are divided by (temperature scaling, Guo et al., 2017).
            All ones until fitted; config.json keeps it, not the state dict.
        confidence: [3, 2], slope and offset of `confidence` for each view in VIEWS. 1 and 0 until fitted; config.json
            keeps them, not the state dict.
    """

    temperature: Tensor
    confidence: Tensor

    def __init__(self, text_hidden: int, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        self.text_hidden = text_hidden
        self.text_projection = nn.Sequential(nn.Linear(text_hidden, TEXT_EMBEDDING), nn.Tanh())
        self.audio_head = _two_layers(AUDIO_EMBEDDING, hidden, len(EMOTIONS), dropout)
        self.text_head = _two_layers(TEXT_EMBEDDING, hidden, len(EMOTIONS), dropout)
        self.fusion = Fusion(hidden, dropout)
        self.register_buffer("temperature", torch.ones(len(VIEWS)), persistent=False)
        self.register_buffer("confidence", torch.tensor([[1.0, 0.0]] * len(VIEWS)), persistent=False)

    def forward(self, audio: Tensor, has_audio: Tensor, text: Tensor, has_text: Tensor) -> "Logits":
        """Return the calibrated logits of the three views.

        Args:
            audio: float [batch, 128], mean VGGish embedding.
            has_audio: bool [batch]. Without audio, the fused view equals the text view.
            text: float [batch, 256], projected text embedding.
            has_text: bool [batch]. Without text, the fused view equals the audio view.
        """
        audio_logits = self.audio_head(audio) / self.temperature[VIEWS.index("audio")]
        text_logits = self.text_head(text) / self.temperature[VIEWS.index("text")]
        both = self.fusion(audio_logits, text_logits, audio, text)
        one = torch.where(has_audio[:, None], audio_logits, text_logits)
        fused = torch.where((has_audio & has_text)[:, None], both / self.temperature[VIEWS.index("fused")], one)
        return Logits(fused, audio_logits, text_logits)


@dataclass
class Logits:
    """Calibrated logits of the three views: float [batch, 5] each."""

    fused: Tensor
    audio: Tensor
    text: Tensor


@dataclass
class Probabilities:
    """Probabilities of the three views: float [batch, 5] each; the row of an absent modality is all zero."""

    fused: Tensor
    audio: Tensor
    text: Tensor


def probabilities(logits: Logits, has_audio: Tensor, has_text: Tensor) -> Probabilities:
    """Return the softmax of the three views, with zeros for absent modalities.

    Args:
        logits: of the three views.
        has_audio, has_text: bool [batch].
    """
    return Probabilities(
        logits.fused.softmax(-1),
        logits.audio.softmax(-1) * has_audio[:, None].to(logits.audio.dtype),
        logits.text.softmax(-1) * has_text[:, None].to(logits.text.dtype),
    )


def contradiction(views: Probabilities, has_audio: Tensor, has_text: Tensor) -> Tensor:
    """Return how far a view prefers another class to the label: max over present views v of (max p_v - p_v[label]).

    The label is the most probable fused class.

    Args:
        views: of `probabilities`.
        has_audio, has_text: bool [batch].

    Returns:
        float [batch], 0 where the views agree.
    """
    label = views.fused.argmax(-1, keepdim=True)

    def preference(view: Tensor, present: Tensor) -> Tensor:
        difference = view.amax(-1) - view.gather(-1, label).squeeze(-1)
        return torch.where(present, difference, torch.zeros_like(difference))

    return torch.maximum(preference(views.audio, has_audio), preference(views.text, has_text))


def confidence(views: Probabilities, has_audio: Tensor, has_text: Tensor, coefficients: Tensor) -> Tensor:
    """Return the calibrated probability that the label is right: float [batch]; 0 where the answer is not a number.

        confidence = (1 - contradiction) * sigmoid(slope * logit(p_fused[label]) + offset)

    The second factor is Platt scaling (Platt, 1999), with coefficients for the kind of evidence: audio and text, audio
    alone, or text alone. With slope >= 0 and offset <= 0, a probability of up to 0.5 gives at most 0.5: a tie of two
    classes has at most that confidence, and so does a label that one view contradicts by 0.5 or more.

    Args:
        views: of `probabilities`.
        has_audio, has_text: bool [batch].
        coefficients: [3, 2], slope and offset for each view in VIEWS.
    """
    probability = views.fused.amax(-1)
    cut = probability.clamp(LOGIT_LIMIT, 1 - LOGIT_LIMIT)
    alone = torch.where(has_audio, VIEWS.index("audio"), VIEWS.index("text"))
    slope, offset = coefficients[torch.where(has_audio & has_text, VIEWS.index("fused"), alone)].unbind(-1)
    scaled = (slope * (cut.log() - (1 - cut).log()) + offset).sigmoid()
    value = (1 - contradiction(views, has_audio, has_text)) * scaled
    return torch.where(probability >= 0, value, torch.zeros_like(value))


def segment_mean(values: Tensor, segment: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of the rows of each segment, and zero for an empty segment.

    A matrix product instead of a scatter makes it deterministic and fast on every device.

    Args:
        values: float [n, width].
        segment: int [n], the segment of each row.
        counts: int [segments], the number of rows of each segment.

    Returns:
        [segments, width].
    """
    member = torch.arange(counts.shape[0], device=segment.device)[:, None] == segment[None, :]
    return member.to(values.dtype) / counts.clamp(min=1)[:, None].to(values.dtype) @ values


class EmotionModel(nn.Module):
    """VGGish, BERT and the fusion head as one module: training trains it, and exported graphs are compared with it."""

    def __init__(self, vggish: VGGish, text_encoder: BertModel, head: FusionHead) -> None:
        super().__init__()
        self.vggish = vggish
        self.text_encoder = text_encoder
        self.head = head

    def embed_audio(self, patches: Tensor, counts: Tensor) -> Tensor:
        """Return the mean VGGish embedding of each utterance: float [batch, 128], zero without audio.

        Args:
            patches: float [patches, 96, 64], the patches of all utterances concatenated.
            counts: int [batch], the number of patches of each utterance.
        """
        segment = torch.repeat_interleave(torch.arange(counts.shape[0], device=counts.device), counts)
        return segment_mean(self.vggish(patches), segment, counts)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the projected text embeddings: float [batch, 256]; a row without tokens is the projection of zero.

        Args:
            input_ids, attention_mask: int [batch, longest], padded.
        """
        return self.head.text_projection(self.mean_tokens(input_ids, attention_mask))

    def mean_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the mean of the encoder's states over the tokens: float [batch, hidden], zero without tokens.

        Args:
            input_ids, attention_mask: int [batch, longest], padded.
        """
        if input_ids.shape[1] == 0:  # BERT needs at least one token
            input_ids = attention_mask = input_ids.new_zeros(len(input_ids), 1)
        states = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.to(torch.bool)[..., None]
        return states.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)

    def forward(self, patches: Tensor, patch_counts: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Logits:
        """Return the logits of a batch of utterances; shapes as in `embed_audio` and `embed_text`."""
        return self.head(
            self.embed_audio(patches, patch_counts),
            patch_counts > 0,
            self.embed_text(input_ids, attention_mask),
            attention_mask.sum(1) > 0,
        )


def load_vggish_state(vggish: VGGish, state: Mapping[str, Tensor]) -> None:
    """Load a state dict of the public PyTorch release (`features.*`, `embeddings.*`; its PCA tables are ignored).

    Raises:
        ValueError: parameters are missing, unknown, or of another shape.
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
