"""Families: what differs between the masked LMs of Hugging Face, in one table.

Names of weights there and here, fields of ``config.json`` and of :class:`Architecture`, and what a model must say of
itself, where it says something.  The reader, the writer and the encoder are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..model.architecture import FIRST_POSITION, Architecture
from ..model.names import ENCODER, LM_HEAD, RANKING_HEAD

#: A module there → modules here; several share its rows in equal parts.  ``{}`` is the number of a layer.
Names = Mapping[str, tuple[str, ...]]

#: Activation functions there → here.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_accurate", "relu": "relu"}

#: What no model may be that reads in both directions, and has a vector for each position.
_PLAIN: dict[str, Any] = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}

_SIZES = {
    "hidden_size": "encoder_embed_dim",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_embed_dim",
}


def _layer(theirs: str, **names: str) -> dict[str, tuple[str, ...]]:
    """Modules of a layer there → ours, with commas between several."""
    return {
        theirs + there.replace("__", "."): tuple(f"{ENCODER}layers.{{}}.{one}" for one in ours.split(","))
        for there, ours in names.items()
    }


_ATTENTION = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"}


def _bert(prefix: str) -> dict[str, tuple[str, ...]]:
    """Encoder of BERT and of those that were made after it."""
    return {
        f"{prefix}embeddings.LayerNorm": (f"{ENCODER}layernorm_embedding",),
        **_layer(f"{prefix}encoder.layer.{{}}.attention.self.", **_ATTENTION),
        **_layer(
            f"{prefix}encoder.layer.{{}}.",
            attention__output__dense="self_attn.out_proj",
            attention__output__LayerNorm="self_attn_layer_norm",
            intermediate__dense="fc1",
            output__dense="fc2",
            output__LayerNorm="final_layer_norm",
        ),
    }


def _head(dense: str, norm: str) -> Names:
    return {dense: (f"{LM_HEAD}dense",), norm: (f"{LM_HEAD}layer_norm",)}


def _ranking(dense: str) -> Names:
    return {dense: (f"{RANKING_HEAD}dense",), "classifier": (f"{RANKING_HEAD}out_proj",)}


@dataclass(frozen=True)
class Family:
    """One kind of masked LM; what most have in common is the default."""

    model_type: str  #: in ``config.json``
    name: str  #: for people
    body: str  #: what stands before the names of the encoder's weights
    encoder: Names
    head: Names  #: but for projection and bias
    head_prefix: str  #: what stands before the names of the head's weights
    bias: str  #: of the projection to the vocabulary
    decoder: str  #: its weight, where it is not that of the embedding
    ranking: Names | None  #: a ranking head; ``None`` where theirs computes otherwise
    classes: str  #: what the names of its classes begin with
    decoder_bias: str = ""  #: another name of :attr:`bias`
    tokens: str = "embeddings.word_embeddings.weight"  #: behind :attr:`body`, as the next two
    positions: str = "embeddings.position_embeddings.weight"  #: empty where positions are no weights
    token_types: str = "embeddings.token_type_embeddings.weight"  #: empty where there are none
    always_projects: bool = False  #: a product follows the embeddings even where they are as wide as the encoder
    type_rows: int = 2  #: token types; the first one is added to the positions, the others are not used here
    behind_padding: bool = False  #: positions are counted from the row behind padding's, not from 0
    sizes: Mapping[str, str] = field(default_factory=lambda: _SIZES)
    bases: Mapping[str, str] = field(default_factory=dict)  #: of rotary positions
    activation: str = "hidden_act"
    eps: str = "layer_norm_eps"  #: empty where it is always 1e-12
    dropouts: tuple[str, str] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    special: tuple[str, ...] = ("bos", "pad", "eos")  #: tokens whose numbers it has, as ``NAME_token_id``
    defaults: Mapping[str, Any] = field(default_factory=dict)  #: of transformers, for what a configuration lacks
    fixed: Mapping[str, Any] = field(default_factory=dict)  #: what must be so where it is said
    parts: Mapping[str, Any] = field(default_factory=dict)  #: what its :class:`Architecture` always has

    @property
    def masked_lm(self) -> str:
        """The class that predicts masked tokens."""
        return f"{self.classes}ForMaskedLM"

    @property
    def multiple_choice(self) -> str:
        """The class that scores filled texts."""
        return f"{self.classes}ForMultipleChoice"

    @property
    def head_weight(self) -> str:
        """A weight that is there if an LM head is."""
        return f"{next(iter(self.head))}.weight"

    def place(self, weight: str) -> str:
        """Full name of :attr:`tokens`, :attr:`positions` or :attr:`token_types`."""
        return f"{self.body}{weight}"

    def names(self, architecture: Architecture, ranking: bool = False) -> dict[str, tuple[str, ...]]:
        """Names of weights there → here, of all that need no arithmetic; some may not be there, such as biases."""
        modules = {**self.encoder, **((self.ranking or {}) if ranking else self.head)}
        layers = 1 if architecture.shared_layers else architecture.encoder_layers
        out: dict[str, tuple[str, ...]] = {}
        for theirs, ours in modules.items():
            for number in range(layers if "{}" in ours[0] else 1):
                for kind in ("weight", "bias"):
                    out[f"{theirs.format(number)}.{kind}"] = tuple(f"{one.format(number)}.{kind}" for one in ours)
        return out

    def architecture(self, config: Mapping[str, Any], positions: int, untied: bool) -> Architecture:
        """The shape that a complete configuration tells of."""
        numbers = {ours: config[theirs] for theirs, ours in self.sizes.items() if theirs in config}
        numbers |= {ours: float(config[theirs]) for theirs, ours in self.bases.items()}
        if numbers.get("embedding_dim") == numbers["encoder_embed_dim"] and not self.always_projects:
            numbers["embedding_dim"] = 0
        if "local_attention" in numbers:
            numbers["local_attention"] -= numbers["local_attention"] % 2  # half on each side
        return Architecture(
            **{"max_positions": positions, **numbers},
            activation_fn=ACTIVATIONS[config[self.activation]],
            layer_norm_eps=config[self.eps] if self.eps else 1e-12,
            untie_weights_roberta=untied,
            family=self.model_type,
            **self.parts,
        )

    def config(self, architecture: Architecture) -> dict[str, Any]:
        """Fields of ``config.json`` for a shape: what :meth:`architecture` reads."""
        activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
        out = {theirs: getattr(architecture, ours) for theirs, ours in {**self.sizes, **self.bases}.items()}
        if "embedding_dim" in self.sizes.values():
            out["embedding_size"] = architecture.embedding_width
        out[self.activation] = activations.get(architecture.activation_fn, architecture.activation_fn)
        if self.eps:
            out[self.eps] = architecture.layer_norm_eps
        if self.positions:
            out["max_position_embeddings"] = architecture.max_positions + FIRST_POSITION * self.behind_padding
        if self.token_types:
            out["type_vocab_size"] = self.type_rows
        return {
            **out,
            "tie_word_embeddings": not architecture.untie_weights_roberta,
            **{name: value for name, value in self.fixed.items() if value is not None},
        }

    def difference(self, architecture: Architecture) -> str:
        """What of a shape this family cannot have, in words; empty where it can have all."""
        config = self.config(architecture)
        if config[self.activation] not in ACTIVATIONS:
            return f"activation_fn {architecture.activation_fn}"
        own = self.architecture(config, architecture.max_positions, architecture.untie_weights_roberta)
        own = replace(own, pooler_activation_fn=architecture.pooler_activation_fn)  # that of the ranking head alone
        for entry in fields(Architecture):
            found = getattr(architecture, entry.name)
            if found != getattr(own, entry.name):
                return f"{entry.name} {found}"
        return ""


_ROBERTA = Family(
    model_type="roberta",
    name="RoBERTa",
    body="roberta.",
    encoder=_bert("roberta."),
    head=_head("lm_head.dense", "lm_head.layer_norm"),
    head_prefix="lm_head.",
    bias="lm_head.bias",
    decoder="lm_head.decoder.weight",
    decoder_bias="lm_head.decoder.bias",
    ranking=_ranking("roberta.pooler.dense"),
    classes="Roberta",
    type_rows=1,
    behind_padding=True,
    defaults={"layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    fixed={"hidden_act": "gelu", "pad_token_id": 1, **_PLAIN},
)

_BERT = Family(
    model_type="bert",
    name="BERT",
    body="bert.",
    encoder=_bert("bert."),
    head=_head("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
    head_prefix="cls.predictions.",
    bias="cls.predictions.bias",
    decoder="cls.predictions.decoder.weight",
    decoder_bias="cls.predictions.decoder.bias",
    ranking=_ranking("bert.pooler.dense"),
    classes="Bert",
    special=("pad",),
    defaults={"layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    fixed=_PLAIN,
)

_DISTILBERT = Family(
    model_type="distilbert",
    name="DistilBERT",
    body="distilbert.",
    encoder={
        "distilbert.embeddings.LayerNorm": (f"{ENCODER}layernorm_embedding",),
        **_layer(
            "distilbert.transformer.layer.{}.",
            attention__q_lin="self_attn.q_proj",
            attention__k_lin="self_attn.k_proj",
            attention__v_lin="self_attn.v_proj",
            attention__out_lin="self_attn.out_proj",
            sa_layer_norm="self_attn_layer_norm",
            ffn__lin1="fc1",
            ffn__lin2="fc2",
            output_layer_norm="final_layer_norm",
        ),
    },
    head=_head("vocab_transform", "vocab_layer_norm"),
    head_prefix="vocab_",
    bias="vocab_projector.bias",
    decoder="vocab_projector.weight",
    ranking=_ranking("pre_classifier"),
    classes="DistilBert",
    special=("pad",),
    token_types="",
    sizes={
        "dim": "encoder_embed_dim",
        "n_layers": "encoder_layers",
        "n_heads": "encoder_attention_heads",
        "hidden_dim": "encoder_ffn_embed_dim",
    },
    activation="activation",
    eps="",
    dropouts=("dropout", "attention_dropout"),
    defaults={"activation": "gelu"},
    parts={"pooler_activation_fn": "relu"},
)

_ALBERT_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0."

_ALBERT = Family(
    model_type="albert",
    name="ALBERT",
    body="albert.",
    encoder={
        "albert.embeddings.LayerNorm": (f"{ENCODER}layernorm_embedding",),
        "albert.encoder.embedding_hidden_mapping_in": (f"{ENCODER}project_in_dim",),
        **_layer(f"{_ALBERT_LAYER}attention.", **_ATTENTION, dense="self_attn.out_proj"),
        **_layer(
            _ALBERT_LAYER,
            attention__LayerNorm="self_attn_layer_norm",
            ffn="fc1",
            ffn_output="fc2",
            full_layer_layer_norm="final_layer_norm",
        ),
    },
    head=_head("predictions.dense", "predictions.LayerNorm"),
    head_prefix="predictions.",
    bias="predictions.bias",
    decoder="predictions.decoder.weight",
    decoder_bias="predictions.decoder.bias",
    ranking=_ranking("albert.pooler"),
    classes="Albert",
    always_projects=True,
    sizes={**_SIZES, "embedding_size": "embedding_dim"},
    defaults={
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu_new",
        "embedding_size": 128,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    fixed={"num_hidden_groups": 1, "inner_group_num": 1, **_PLAIN},
    parts={"shared_layers": True},
)

_ELECTRA = Family(
    model_type="electra",
    name="ELECTRA's generator",
    body="electra.",
    encoder={**_bert("electra."), "electra.embeddings_project": (f"{ENCODER}project_in_dim",)},
    head=_head("generator_predictions.dense", "generator_predictions.LayerNorm"),
    head_prefix="generator_",
    bias="generator_lm_head.bias",
    decoder="generator_lm_head.weight",
    ranking=_ranking("sequence_summary.summary"),
    classes="Electra",
    special=("pad",),
    sizes={**_SIZES, "embedding_size": "embedding_dim"},
    defaults={"layer_norm_eps": 1e-12, "hidden_act": "gelu", "embedding_size": 128},
    fixed={
        **{"hidden_act": "gelu", "summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"},
        **_PLAIN,
    },
    parts={"pooler_activation_fn": "gelu"},
)

_MODERNBERT = Family(
    model_type="modernbert",
    name="ModernBERT",
    body="model.",
    encoder={
        "model.embeddings.norm": (f"{ENCODER}layernorm_embedding",),
        **_layer(
            "model.layers.{}.",
            attn__Wqkv="self_attn.q_proj,self_attn.k_proj,self_attn.v_proj",
            attn__Wo="self_attn.out_proj",
            attn_norm="self_attn_layer_norm",
            mlp__Wi="fc1",
            mlp__Wo="fc2",
            mlp_norm="final_layer_norm",
        ),
        "model.final_norm": (f"{ENCODER}layer_norm",),
    },
    head=_head("head.dense", "head.norm"),
    head_prefix="head.",
    bias="decoder.bias",
    decoder="decoder.weight",
    ranking=None,
    classes="ModernBert",
    tokens="embeddings.tok_embeddings.weight",
    positions="",
    token_types="",
    sizes={
        **_SIZES,
        "max_position_embeddings": "max_positions",
        "local_attention": "local_attention",
        "global_attn_every_n_layers": "global_every",
    },
    bases={"global_rope_theta": "rotary_base", "local_rope_theta": "local_rotary_base"},
    activation="hidden_activation",
    eps="norm_eps",
    dropouts=("embedding_dropout", "attention_dropout"),
    special=("bos", "pad", "eos", "cls", "sep"),
    defaults={
        **{"norm_eps": 1e-5, "hidden_activation": "gelu", "embedding_dropout": 0.0, "attention_dropout": 0.0},
        **{"max_position_embeddings": 8192, "local_attention": 128, "global_attn_every_n_layers": 3},
        **{"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0},
    },
    fixed={
        **{"hidden_activation": "gelu", "classifier_activation": "gelu"},
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), False),
        "decoder_bias": True,
        "rope_scaling": None,
    },
    parts={"norm_first": True, "gated": True, "without_biases": True},
)

#: All families by their ``model_type``.
FAMILIES = {
    family.model_type: family
    for family in (
        _ROBERTA,
        replace(_ROBERTA, model_type="xlm-roberta", name="XLM-R", classes="XLMRoberta"),
        replace(_ROBERTA, model_type="camembert", name="CamemBERT", classes="Camembert"),
        *(_BERT, _DISTILBERT, _ALBERT, _ELECTRA, _MODERNBERT),
    )
}

#: What stands before names of weights in files from there.
HUB_PREFIXES = tuple(prefix for family in FAMILIES.values() for prefix in (family.body, family.head_prefix))

#: Kinds of models that cannot be had, and why.
_REFUSED = {
    "deberta": "its attention knows the distance of tokens, which is not computed here",
    "deberta-v2": "its attention knows the distance of tokens, which is not computed here",
    "mpnet": "its attention knows the distance of tokens, which is not computed here",
}
_DECODER = "it reads from left to right only, so it sees nothing of the text behind a blank"
_GENERATING = "it writes text, and does not score what fills a blank"

#: How the names of classes end that are no masked LMs, and why these are not.
_ENDINGS = {
    "ForCausalLM": _DECODER,
    "LMHeadModel": _DECODER,
    "ForConditionalGeneration": _GENERATING,
    "ElectraForPreTraining": "it is ELECTRA's discriminator, which judges tokens and predicts none; take the generator",
}
_DECODERS = (
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "opt",
    "bloom",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "phi",
)


def why_not(config: Mapping[str, Any]) -> str:
    """Why a model of this configuration cannot be had, in words; empty where nothing is known against it."""
    kind, classes = config.get("model_type"), config.get("architectures")
    if isinstance(kind, str) and kind in _REFUSED:
        return _REFUSED[kind]
    if isinstance(kind, str) and kind in _DECODERS:
        return _DECODER
    for name in classes if isinstance(classes, list) else []:
        for ending, why in _ENDINGS.items():
            if isinstance(name, str) and name.endswith(ending):
                return why
    return ""
