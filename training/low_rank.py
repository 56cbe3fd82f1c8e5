"""Train low-rank updates of large matrices (LoRA, Hu et al., 2021).

The optimiser needs less memory and time, overfitting decreases, and the update is small enough for git
(emotion/checkpoint/compact.py). VGGish's convolutions are small and are trained in full.
"""

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from emotion.model import EmotionModel

TEXT_MATRICES = ["query", "key", "value", "dense"]
AUDIO_MATRICES = ["embeddings.0", "embeddings.2"]


def inject(model: EmotionModel, rank: int) -> None:
    """Add low-rank updates to the large matrices of both encoders, and freeze these matrices.

    Args:
        model: changed in place.
        rank: of the updates.
    """
    inject_adapter_in_model(_config(rank, TEXT_MATRICES), model.text_encoder)
    inject_adapter_in_model(_config(rank, AUDIO_MATRICES), model.vggish)
    for name, parameter in model.vggish.named_parameters():
        if not name.startswith(tuple(AUDIO_MATRICES)) or name.endswith("bias"):
            parameter.requires_grad_(True)


def merge(model: EmotionModel) -> None:
    """Add the low-rank updates to the large matrices, and remove the adapters; without adapters, do nothing."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())


def _config(rank: int, matrices: list[str]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=matrices)
