"""Checkpoints: model directories that are created, loaded, saved, and made compact for git.

| module | content |
| --- | --- |
| `format` | the layout of a checkpoint directory: read, check, write |
| `sources` | pretrained and seeded weights that a new checkpoint starts from |
| `compact` | the compact form, which stores only what training changed |
| `__main__` | `python -m emotion.checkpoint new \\| compact \\| expand` |

The names below are the interface for the other packages; `emotion.checkpoint.compact` is imported by its own name.
"""

from emotion.checkpoint.format import (
    PARTS,
    Checkpoint,
    CheckpointConfig,
    CheckpointError,
    confidence_tensor,
    digest,
    load,
    read_config,
    replace_config,
    save,
    set_calibration,
    temperature_tensor,
    with_calibration,
)
from emotion.checkpoint.sources import create, load_minilm, seeded_vggish

__all__ = [
    "PARTS",
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointError",
    "confidence_tensor",
    "create",
    "digest",
    "load",
    "load_minilm",
    "read_config",
    "replace_config",
    "save",
    "seeded_vggish",
    "set_calibration",
    "temperature_tensor",
    "with_calibration",
]
