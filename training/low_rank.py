"""Low-rank updates (LoRA, Hu et al., 2021): large matrices rest, and two thin ones beside each learn.

Less memory and time for the optimiser, less to overfit with, and a difference to the start that fits into git
(emotion/checkpoint/compact.py). VGGish's convolutions are small and learn in full.
"""

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from emotion.model import EmotionModel

TEXT_MATRICES = ["query", "key", "value", "dense"]
AUDIO_MATRICES = ["embeddings.0", "embeddings.2"]


def inject(model: EmotionModel, rank: int) -> None:
    """Put thin matrices beside the large ones of both encoders, and freeze the large ones."""
    inject_adapter_in_model(_config(rank, TEXT_MATRICES), model.text_encoder)
    inject_adapter_in_model(_config(rank, AUDIO_MATRICES), model.vggish)
    for name, parameter in model.vggish.named_parameters():
        if not name.startswith(tuple(AUDIO_MATRICES)) or name.endswith("bias"):
            parameter.requires_grad_(True)


def merge(model: EmotionModel) -> None:
    """Add what the thin matrices learnt to the large ones, and take them away."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())


def _config(rank: int, matrices: list[str]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=matrices)
