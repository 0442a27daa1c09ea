"""Architecture: the shape of a RoBERTa."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Shape of a RoBERTa encoder; the fields are named as fairseq's options are."""

    encoder_layers: int
    encoder_embed_dim: int
    encoder_ffn_embed_dim: int
    encoder_attention_heads: int
    max_positions: int
    activation_fn: str = "gelu"
    layer_norm_eps: float = 1e-5
    untie_weights_roberta: bool = False
    pooler_activation_fn: str = "tanh"

    def differences(self, config: Any) -> list[str]:
        """What *config* (fairseq's model configuration) says otherwise, as text."""
        out = []
        for entry in fields(self):
            expected, found = getattr(self, entry.name), getattr(config, entry.name, None)
            if found is not None and found != expected:
                out.append(f"{entry.name} {expected} in the checkpoint, {found} in the model")
        return out


#: RoBERTa-base and RoBERTa-large.
BASE = Architecture(12, 768, 3072, 12, max_positions=512)
LARGE = Architecture(24, 1024, 4096, 16, max_positions=512)
