"""The file of the demo's diffusion transformer: weights in half precision, and in its metadata all that builds it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from .store import checksum, weights_of

FORMAT = "atedm-demo-transformer"
_HERE = Path(__file__).resolve().parent
DEFAULT_FILE = _HERE / "model" / "atedm_demo_transformer.safetensors"
PHOTOGRAPHS = _HERE / "photographs" / "model" / "atedm_photographs_transformer.safetensors"
"""The same transformer, trained on the latents of the photographs' model."""


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of an SD3: each head has 64 channels, and a token is as wide as all heads together.

    Attributes:
        heads: of each attention.
        blocks: joint blocks.
        side: edge of the table of positions, in tokens; a picture may be 16 times as many pixels wide.
        text_width: channels of a text token.
        pooled_width: channels of the text's summary.
    """

    heads: int = 2
    blocks: int = 6
    side: int = 32
    text_width: int = 128
    pooled_width: int = 64

    @property
    def width(self) -> int:
        """Channels of a token."""
        return 64 * self.heads

    def host(self) -> dict[str, Any]:
        """The unet_config that the host makes from an SD3.5-large file, with our numbers."""
        embedder = {"in_features": self.text_width, "out_features": self.width}
        return {
            "in_channels": 4,
            "out_channels": 4,
            "input_size": None,
            "patch_size": 2,
            "depth": self.heads,
            "num_blocks": self.blocks,
            "adm_in_channels": self.pooled_width,
            "pos_embed_scaling_factor": None,
            "pos_embed_max_size": self.side,
            "num_patches": self.side**2,
            "qk_norm": "rms",
            "context_embedder_config": {"target": "torch.nn.Linear", "params": embedder},
        }


def write(file: Path, config: TransformerConfig, weights: dict[str, Tensor], training: dict[str, Any]) -> None:
    """Save in half precision."""
    tensors = {name: weight.detach().half().contiguous() for name, weight in weights.items()}
    told = {"format": FORMAT, "config": json.dumps(asdict(config)), "training": json.dumps(training)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, {**told, "sha256": checksum(tensors)})


def read(file: Path = DEFAULT_FILE) -> tuple[TransformerConfig, dict[str, Tensor], dict[str, Any]]:
    """(sizes, weights in half precision, notes on the training).

    Raises:
        ValueError: the file is missing, damaged or of another kind.
    """
    way_out = "restore it from the repository, or train it again with python demo/train_transformer.py"
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file; {way_out}")
    with safetensors.safe_open(file, "pt") as opened:
        told = opened.metadata() or {}
    if told.get("format") != FORMAT:
        raise ValueError(f"{file}: its format is {told.get('format')!r}, not {FORMAT!r}; {way_out}")
    tensors = weights_of(file)
    if told.get("sha256") != checksum(tensors):
        raise ValueError(f"{file}: the weights do not match their checksum; {way_out}")
    return TransformerConfig(**json.loads(told["config"])), tensors, json.loads(told["training"])
