"""Model: the core's masked LM as one of fairseq's models.

A RoBERTa has fairseq's parameters and names, so checkpoints go both ways.  The shape comes from the checkpoint
it starts from, where the command line does not say otherwise.
"""

from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta import RobertaEncoder, RobertaModel
from fairseq.models.roberta.model import base_architecture
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from ..model.architecture import BASE, LARGE, Architecture
from ..model.encoder import Attention, Encoder, TrainingOptions
from ..model.heads import LMHead
from ..model.masked_lm import outputs
from ..weights.reading import upgraded_weights
from .names import ANY_ARCHITECTURE, MODEL_NAME, option

#: Dropout where neither options nor the checkpoint say anything of it.
DROPOUTS = {"dropout": 0.1, "attention_dropout": 0.1}


def _open(text: str, from_scratch: Any) -> Any:
    return option(None, f"{text} (default: as in the checkpoint; {from_scratch} from scratch)")


def _or_as_in_checkpoint(text: str) -> Any:
    return option(None, f"{text} (default: as in the checkpoint with --arch {ANY_ARCHITECTURE}; else 0.1)")


@dataclass
class ClozeRobertaConfig(FairseqDataclass):
    """Options of ``--arch cloze_roberta`` and ``--arch cloze_lm``; what is ``None`` comes from the checkpoint."""

    encoder_layers: Optional[int] = _open("number of layers", BASE.encoder_layers)
    encoder_embed_dim: Optional[int] = _open("width of the encoder", BASE.encoder_embed_dim)
    encoder_ffn_embed_dim: Optional[int] = _open("width of the feed-forward layers", BASE.encoder_ffn_embed_dim)
    encoder_attention_heads: Optional[int] = _open("attention heads", BASE.encoder_attention_heads)
    max_positions: Optional[int] = _open("tokens of the longest input", BASE.max_positions)
    activation_fn: Optional[str] = _open("activation function", "gelu")
    layer_norm_eps: Optional[float] = _open("epsilon of the layer norms", "1e-5")
    untie_weights_roberta: Optional[bool] = _open("keep embeddings and LM head apart", "no")
    pooler_activation_fn: Optional[str] = _open("activation function of the ranking head", "tanh")
    family: Optional[str] = _open("what Hugging Face calls models of this kind, for export", "roberta")
    embedding_dim: Optional[int] = _open("width of the embeddings", "as the encoder")
    shared_layers: Optional[bool] = _open("one layer, computed as often as there are layers", "no")
    norm_first: Optional[bool] = _open("layer norms before attention and feed-forward, not after", "no")
    gated: Optional[bool] = _open("gated feed-forward layers", "no")
    without_biases: Optional[bool] = _open("products and layer norms without biases", "no")
    rotary_base: Optional[float] = _open("base of rotary positions", "positions are embedded")
    local_rotary_base: Optional[float] = _open("the same in layers of local attention", "none")
    local_attention: Optional[int] = _open("tokens that local attention looks at", "all")
    global_every: Optional[int] = _open("each so-manyth layer looks at the whole text", 1)
    dropout: Optional[float] = _or_as_in_checkpoint("dropout probability")
    attention_dropout: Optional[float] = _or_as_in_checkpoint("dropout probability of attention weights")
    activation_dropout: float = option(0.0, "dropout probability inside the feed-forward layers")
    pooler_dropout: float = option(0.0, "dropout probability inside the ranking head")
    encoder_layerdrop: float = option(0.0, "LayerDrop probability")
    autocast: bool = option(False, "compute in bfloat16 where that is safe, on CPU and CUDA; weights stay as they are")
    checkpoint_activations: bool = option(False, "recompute activations in the backward pass, which saves memory")
    compile: bool = option(
        False, "compile what the layers do beside attention with torch.compile; pays on CUDA, which needs triton"
    )


class ClozeRobertaEncoder(RobertaEncoder):
    """fairseq's shell around the core's encoder and LM head."""

    def build_embedding(self, vocab_size: int, embedding_dim: int, padding_idx: int) -> nn.Embedding:
        """Token embedding, which may be narrower than the encoder."""
        return nn.Embedding(vocab_size, architecture_of(self.args).embedding_width, padding_idx)

    def build_encoder(self, args: Any, dictionary: Dictionary, embed_tokens: nn.Embedding) -> Encoder:
        """The core's encoder."""
        dropouts = (args.dropout, args.attention_dropout, args.activation_dropout, args.encoder_layerdrop)
        options = TrainingOptions(*dropouts, getattr(args, "checkpoint_activations", False))
        encoder = Encoder(architecture_of(args), embed_tokens, options, getattr(args, "compile", False))
        return encoder.apply(initialise)

    def build_lm_head(self, embed_dim: int, output_dim: int, activation_fn: str, weight: Any) -> LMHead:
        """The core's LM head."""
        return LMHead(architecture_of(self.args), output_dim, weight)

    def extract_features(
        self, src_tokens: Tensor, return_all_hiddens: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """As fairseq's, with zeros at padding."""
        states: list[Tensor] | None = [] if return_all_hiddens else None
        features = self.sentence_encoder(src_tokens, states, kwargs.get("token_embeddings"))
        return features, {"inner_states": states and [state.transpose(0, 1) for state in states]}


@register_model(MODEL_NAME, dataclass=ClozeRobertaConfig)
class ClozeRobertaModel(RobertaModel):
    """The core's masked LM as fairseq trains it."""

    def __init__(self, args: Any, encoder: ClozeRobertaEncoder) -> None:
        super(RobertaModel, self).__init__(encoder)  # RobertaModel's would draw fewer of the weights
        self.args = args
        self.apply(initialise)
        self.classification_heads = nn.ModuleDict()

    @staticmethod
    def add_args(parser: Any) -> None:
        """Add the options of :class:`ClozeRobertaConfig`; architectures set those that are not given."""
        gen_parser_from_dataclass(parser, ClozeRobertaConfig(), delete_default=True)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "ClozeRobertaModel":
        """Build a model; what its configuration leaves open is as in RoBERTa-base."""
        fill_config(args, {**vars(BASE), **DROPOUTS})
        with open_dict(args) if isinstance(args, DictConfig) else nullcontext():
            base_architecture(args)  # what fairseq's RoBERTa has options for and ours has not
            return cls(args, ClozeRobertaEncoder(args, task.source_dictionary))

    @classmethod
    def from_pretrained(cls, model_name_or_path: str, checkpoint_file: str = "model.pt", **options: Any) -> Any:
        """Load weights that rank, see :meth:`fairseq_cloze.plugin.hub.ClozeHubInterface.from_pretrained`.

        Nothing is downloaded: the vocabulary is the one that the checkpoint carries, or that lies beside it.
        """
        from .hub import ClozeHubInterface

        return ClozeHubInterface.from_pretrained(model_name_or_path, checkpoint_file, **options)

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: str | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """As :meth:`fairseq.models.roberta.RobertaModel.forward`, and all that the core's :func:`outputs` can."""
        device = src_tokens.device.type
        with torch.autocast(device, torch.bfloat16) if getattr(self.args, "autocast", False) else nullcontext():
            asked = (src_tokens, features_only)
            if return_all_hiddens or "token_embeddings" in kwargs:
                return super().forward(*asked, return_all_hiddens, classification_head_name, **kwargs)
            encoder, lm_head = self.encoder.sentence_encoder, self.encoder.lm_head
            heads = self.classification_heads
            return outputs(encoder, lm_head, heads, *asked, classification_head_name, **kwargs), {"inner_states": None}

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Rename older weights, drop heads of other tasks."""
        upgraded = upgraded_weights(state_dict, "the checkpoint")
        state_dict.clear()
        state_dict.update(upgraded)
        super().upgrade_state_dict_named(state_dict, name)


def architecture_of(args: Any) -> Architecture:
    """The shape that a complete model configuration asks for."""
    return Architecture(**{entry.name: getattr(args, entry.name) for entry in fields(Architecture)})


def initialise(module: nn.Module) -> None:
    """Draw the weights of a module as fairseq does, in the same order, so that a seed gives the same model."""
    init_bert_params(module)
    if isinstance(module, Attention):  # a second time, after its parts
        for projection in (module.q_proj, module.k_proj, module.v_proj):
            nn.init.normal_(projection.weight, std=0.02)


def set_layer_norm_eps(model: nn.Module, eps: float) -> None:
    """Give every layer norm of fairseq's own models an epsilon, for which they have no option."""
    for module in model.modules():
        if hasattr(module, "normalized_shape"):  # torch's LayerNorm and apex's
            module.eps = eps  # type: ignore[assignment]


def rest_lm_head(model: nn.Module) -> None:
    """Take the LM head, but for embeddings it shares, out of training; DDP waits for gradients of all that is in it."""
    encoder: Any = model.encoder
    for name, parameter in encoder.lm_head.named_parameters():
        parameter.requires_grad = name == "weight" and parameter is encoder.sentence_encoder.embed_tokens.weight


def fill_config(config: Any, values: dict[str, Any]) -> None:
    """Set the options of a model configuration that nobody has set."""
    with open_dict(config) if isinstance(config, DictConfig) else nullcontext():
        for name, value in values.items():
            if getattr(config, name, None) is None:
                setattr(config, name, value)


@register_model_architecture(MODEL_NAME, "cloze_roberta_base")
def cloze_roberta_base(args: Any) -> None:
    """RoBERTa-base: 12 layers of 768."""
    fill_config(args, vars(BASE))


@register_model_architecture(MODEL_NAME, "cloze_roberta_large")
def cloze_roberta_large(args: Any) -> None:
    """RoBERTa-large: 24 layers of 1024."""
    fill_config(args, vars(LARGE))


@register_model_architecture(MODEL_NAME, ANY_ARCHITECTURE)
def cloze_lm(args: Any) -> None:
    """Whatever the checkpoint is."""
