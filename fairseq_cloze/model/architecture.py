"""Architecture: the shape of a masked LM, RoBERTa's where nothing else is said."""

from dataclasses import dataclass, fields
from typing import Any

from ..data.vocabulary import PAD

#: Row of the first position in the embedding of positions; two stand before it, that of padding and one unused.
FIRST_POSITION = PAD + 1

#: Layers that share their weights are below: nothing else tells how many there are.
MOST_LAYERS = 1000
#: Largest base of rotary positions.
LARGEST_BASE = 1e9


@dataclass(frozen=True)
class Architecture:
    """Shape of an encoder with its LM head; the fields are named as fairseq's options are, where it has them.

    The defaults are RoBERTa's, so what a configuration does not name is as there.
    """

    encoder_layers: int
    encoder_embed_dim: int
    encoder_ffn_embed_dim: int
    encoder_attention_heads: int
    max_positions: int
    activation_fn: str = "gelu"
    layer_norm_eps: float = 1e-5
    untie_weights_roberta: bool = False
    pooler_activation_fn: str = "tanh"
    family: str = "roberta"  #: what Hugging Face calls models of this kind, for export; nothing is computed by it
    embedding_dim: int = 0  #: width of the embeddings, which a product widens to the encoder's; 0 where it is the same
    shared_layers: bool = False  #: one layer, computed ``encoder_layers`` times
    norm_first: bool = False  #: norm before attention and feed-forward, none before the first attention, one at the end
    gated: bool = False  #: half of what comes out of the first feed-forward product is multiplied by the other half
    without_biases: bool = False  #: in the layers, in all norms and in the LM head's first product
    rotary_base: float = 0.0  #: positions turn query and key by angles of that base; 0: they are embedded
    local_rotary_base: float = 0.0  #: the same in layers of local attention
    local_attention: int = 0  #: tokens look at so many others, half on each side; 0: at all of the row
    global_every: int = 1  #: but each so-manyth layer, from the first, looks at the whole row

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings and of what the LM head transforms."""
        return self.embedding_dim or self.encoder_embed_dim

    def is_local(self, layer: int) -> bool:
        """Whether that layer, counted from 0, looks at near tokens only."""
        return self.local_attention > 0 and layer % self.global_every != 0

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
