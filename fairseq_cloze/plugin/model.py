"""Model: RoBERTa that projects to candidate rows only.

``cloze_roberta`` is fairseq's RoBERTa with the same parameter names, so checkpoints go both ways.  It differs in four
points: the LM head multiplies with the embedding rows of the candidates instead of the whole vocabulary; it can compute
in bfloat16; its shape comes from the checkpoint it starts from, where the command line does not say otherwise; and the
epsilon of its layer norms is an option, as Hugging Face models of the family disagree on it.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
import torch.nn.functional as F
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta.model import RobertaLMHead
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from ..model.encoder import pack
from ..weights.reading import is_dead_parameter
from .compat import drop_dead_parameters
from .names import MODEL_NAME

BASE: dict[str, Any] = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "max_positions": 512,
    "activation_fn": "gelu",
    "layer_norm_eps": 1e-5,
    "untie_weights_roberta": False,
    "pooler_activation_fn": "tanh",
}
LARGE: dict[str, Any] = {
    **BASE,
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
}

_FROM_CHECKPOINT = "(default: as in the checkpoint; {} from scratch)"


@dataclass
class ClozeRobertaConfig(FairseqDataclass):
    """Options of ``--arch cloze_roberta``; what is ``None`` comes from the checkpoint."""

    encoder_layers: Optional[int] = field(
        default=None, metadata={"help": "number of layers " + _FROM_CHECKPOINT.format(12)}
    )
    encoder_embed_dim: Optional[int] = field(
        default=None, metadata={"help": "width of the encoder " + _FROM_CHECKPOINT.format(768)}
    )
    encoder_ffn_embed_dim: Optional[int] = field(
        default=None, metadata={"help": "width of the feed-forward layers " + _FROM_CHECKPOINT.format(3072)}
    )
    encoder_attention_heads: Optional[int] = field(
        default=None, metadata={"help": "attention heads " + _FROM_CHECKPOINT.format(12)}
    )
    max_positions: Optional[int] = field(
        default=None, metadata={"help": "tokens of the longest input " + _FROM_CHECKPOINT.format(512)}
    )
    activation_fn: Optional[str] = field(
        default=None, metadata={"help": "activation function " + _FROM_CHECKPOINT.format("gelu")}
    )
    layer_norm_eps: Optional[float] = field(
        default=None, metadata={"help": "epsilon of the layer norms " + _FROM_CHECKPOINT.format("1e-5")}
    )
    untie_weights_roberta: Optional[bool] = field(
        default=None, metadata={"help": "keep embeddings and LM head apart " + _FROM_CHECKPOINT.format("no")}
    )
    pooler_activation_fn: Optional[str] = field(
        default=None, metadata={"help": "activation function of the ranking head " + _FROM_CHECKPOINT.format("tanh")}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout probability of attention weights"})
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability inside the feed-forward layers"}
    )
    pooler_dropout: float = field(default=0.0, metadata={"help": "dropout probability inside the ranking head"})
    encoder_layerdrop: float = field(default=0.0, metadata={"help": "LayerDrop probability"})
    autocast: bool = field(
        default=False,
        metadata={"help": "compute in bfloat16 where that is safe, on CPU and CUDA; weights stay as they are"},
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass, which saves memory"}
    )
    compile: bool = field(
        default=False,
        metadata={
            "help": "compile what the layers do beside attention with torch.compile; pays on CUDA, which needs triton"
        },
    )


@register_model(MODEL_NAME, dataclass=ClozeRobertaConfig)
class ClozeRobertaModel(RobertaModel):
    """fairseq's RoBERTa with a projection to candidate rows."""

    @staticmethod
    def add_args(parser: Any) -> None:
        """Add the options of :class:`ClozeRobertaConfig`; architectures set those that are not given."""
        gen_parser_from_dataclass(parser, ClozeRobertaConfig(), delete_default=True)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "ClozeRobertaModel":
        """Build a model, finished; other tasks than ours, such as masked_lm, know nothing of :func:`finish_model`."""
        model: ClozeRobertaModel = super().build_model(args, task)
        finish_model(model, getattr(args, "layer_norm_eps", None), getattr(args, "compile", False))
        return model

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: str | None = None,
        candidate_tokens: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """As :meth:`fairseq.models.roberta.RobertaModel.forward`, and with *candidate_tokens* their scores alone.

        Args:
            src_tokens: ``int64 (rows, length)``
            candidate_tokens: embedding rows to score, ``int64 (blanks, candidates, pieces)``
            kwargs: with *candidate_tokens*, the rest of ``net_input`` (see :mod:`fairseq_cloze.views.joint`),
                and *contrast* and *normalise* of :func:`piece_scores`

        Returns:
            scores of the pieces, ``(blanks, candidates, pieces)``, and fairseq's extras
        """
        device = src_tokens.device.type
        with torch.autocast(device, torch.bfloat16) if getattr(self.args, "autocast", False) else nullcontext():
            if candidate_tokens is None:
                return super().forward(
                    src_tokens, features_only, return_all_hiddens, classification_head_name, **kwargs
                )
            return self._score_pieces(src_tokens, candidate_tokens, **kwargs)

    def _score_pieces(
        self,
        src_tokens: Tensor,
        candidate_tokens: Tensor,
        reads: Tensor,
        piece_reads: Tensor,
        windows: Tensor,
        contrast: float = 0.0,
        normalise: bool = False,
        **unused: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        features, extra = self.encoder.extract_features(src_tokens)
        features = features.flatten(0, 1)
        scores = piece_scores(
            self.encoder.lm_head, features[reads], candidate_tokens, piece_reads, windows, contrast, normalise
        )
        return scores, extra

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Rename older weights, drop heads of other tasks."""
        for key in filter(is_dead_parameter, list(state_dict)):
            del state_dict[key]
        super().upgrade_state_dict_named(state_dict, name)


def piece_scores(
    lm_head: RobertaLMHead,
    features: Tensor,
    candidate_tokens: Tensor,
    piece_reads: Tensor,
    windows: Tensor,
    contrast: float,
    normalise: bool,
) -> Tensor:
    """Score the tokens of candidates by their embedding rows alone.

    A piece's score is its logit where it is read, less *contrast* times its mean logit at the masks of the window's
    other blanks.  As logits are linear in what the LM head transforms, that is one product with a difference of
    vectors.  With ``contrast`` 1 it is the pointwise mutual information of candidate and blank in the domain of the
    window (cf. Holtzman et al., "Surface Form Competition: Why the Highest Probability Answer Isn't Always Right",
    EMNLP 2021).

    Args:
        lm_head: RoBERTa's
        features: encoder output where something is read, the blanks' own masks first, ``(reads, width)``
        candidate_tokens: embedding rows, ``int64 (blanks, candidates, pieces)``
        piece_reads: index into *features* for each piece, ``int64 (blanks, candidates, pieces)``
        windows: window of each blank, ``int64 (blanks,)``
        contrast: 0 to 1; 0 is used in windows of one blank
        normalise: log-probabilities instead of logits, which needs the logits of the whole vocabulary

    Returns:
        ``(blanks, candidates, pieces)``
    """
    x = lm_head.layer_norm(lm_head.activation_fn(lm_head.dense(features)))
    share = contrast_shares(windows, contrast).to(x)
    others = mean_of_others(x[: len(windows)], windows) * share[:, None]
    flat, reads = candidate_tokens.flatten(1), piece_reads.flatten(1)
    rows = F.embedding(flat, lm_head.weight)  # (blanks, candidates * pieces, width)
    scores = ((x[reads] - others[:, None]) * rows).sum(dim=-1) + lm_head.bias[flat] * (1 - share[:, None])
    if normalise:
        log_z = (F.linear(x, lm_head.weight) + lm_head.bias).float().logsumexp(dim=-1)
        others_z = mean_of_others(log_z[: len(windows), None], windows)[:, 0] * share
        scores = scores - (log_z[reads] - others_z[:, None])
    return scores.view_as(candidate_tokens)


def contrast_shares(windows: Tensor, contrast: float) -> Tensor:
    """*contrast* for each blank, 0 where its window has no other, ``float32 (blanks,)``."""
    return contrast * (torch.bincount(windows)[windows] > 1).float()


def mean_of_others(values: Tensor, windows: Tensor) -> Tensor:
    """Mean over the other blanks of the same window, 0 where there is none.

    Args:
        values: ``(blanks, width)``
        windows: ``int64 (blanks,)``

    Returns:
        ``(blanks, width)``
    """
    count = torch.bincount(windows)
    total = values.new_zeros(len(count), values.size(1)).index_add(0, windows, values)
    return (total[windows] - values) / (count[windows] - 1).clamp(min=1)[:, None]


def finish_model(model: nn.Module, layer_norm_eps: float | None, compiled: bool = False) -> None:
    """What fairseq's constructors have no option for.

    Args:
        model: a RoBERTa, just built
        layer_norm_eps: epsilon of every layer norm; fairseq builds them with 1e-5
        compiled: see :func:`fairseq_cloze.model.encoder.pack`
    """
    drop_dead_parameters(model)
    pack(model, compiled)
    if layer_norm_eps is None:
        return
    for module in model.modules():
        if hasattr(module, "normalized_shape"):  # torch's LayerNorm and apex's
            setattr(module, "eps", float(layer_norm_eps))  # noqa: B010


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
    fill_config(args, BASE)


@register_model_architecture(MODEL_NAME, "cloze_roberta_large")
def cloze_roberta_large(args: Any) -> None:
    """RoBERTa-large: 24 layers of 1024."""
    fill_config(args, LARGE)
