"""The core's model as one of fairseq's: the weights, draws and numbers of fairseq's own RoBERTa."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.models.roberta import RobertaModel

from fairseq_cloze import register
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.model.architecture import BASE, LARGE, Architecture
from fairseq_cloze.model.encoder import Encoder
from fairseq_cloze.model.heads import LMHead
from fairseq_cloze.model.masked_lm import MaskedLM
from fairseq_cloze.model.names import HEAD_NAME

register()

from fairseq_cloze.plugin.model import (  # noqa: E402
    ClozeRobertaConfig,
    ClozeRobertaModel,
    fill_config,
    rest_lm_head,
    set_layer_norm_eps,
)
from fairseq_cloze.plugin.task import make_dictionary  # noqa: E402

SMALL = Architecture(2, 32, 64, 4, max_positions=60)


def build(vocabulary: Vocabulary, kind: Any = ClozeRobertaModel, seed: int = 3, **changed: Any) -> Any:
    """A model as fairseq builds it, with random weights."""
    options = {name: value for name, value in vars(ClozeRobertaConfig()).items() if not name.startswith("_")}
    options |= {"dropout": 0.1, "attention_dropout": 0.1}  # as ours has them where nothing is said
    config = SimpleNamespace(**{**options, **vars(SMALL), **changed})
    task = SimpleNamespace(source_dictionary=make_dictionary(vocabulary), max_positions=lambda: 60)
    torch.manual_seed(seed)
    return kind.build_model(config, task)


def vary(model: torch.nn.Module) -> None:
    """Biases and norms must matter, too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def tokens_of(vocabulary: Vocabulary) -> torch.Tensor:
    source = torch.randint(4, len(vocabulary) - 1, (3, 20), generator=torch.Generator().manual_seed(1))
    source[:, 0], source[1, 12:], source[2, 19] = 0, 1, 2
    return source


@pytest.mark.parametrize("untied", [False, True])
def test_a_seed_gives_the_weights_of_fairseqs_model(vocabulary: Vocabulary, untied: bool) -> None:
    models = []
    for kind in (ClozeRobertaModel, RobertaModel):
        model = build(vocabulary, kind, untie_weights_roberta=untied)
        model.register_classification_head(HEAD_NAME, num_classes=1)
        models.append((model, torch.rand(1)))
    (ours, drawn), (theirs, expected) = models
    assert torch.equal(drawn, expected)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_its_parts_are_the_cores(vocabulary: Vocabulary) -> None:
    model = build(vocabulary, dropout=0.2, attention_dropout=0.3, activation_dropout=0.4, encoder_layerdrop=0.5)
    encoder = model.encoder.sentence_encoder
    assert type(encoder) is Encoder and type(model.encoder.lm_head) is LMHead
    assert vars(encoder.in_training) == {
        **{"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.4, "layerdrop": 0.5, "recompute": False}
    }
    assert build(vocabulary, checkpoint_activations=True).encoder.sentence_encoder.in_training.recompute
    assert model.max_positions() == 60
    assert model.encoder.lm_head.weight is encoder.embed_tokens.weight


def test_outputs_are_fairseqs_and_the_cores(vocabulary: Vocabulary) -> None:
    """What masked_lm asks for, features, every layer, a head of a task of fairseq's."""
    ours, theirs = build(vocabulary), build(vocabulary, RobertaModel)
    for model in (ours, theirs):
        model.register_classification_head("sentence", num_classes=5)
    vary(ours)
    theirs.load_state_dict(ours.state_dict())
    core = MaskedLM.from_weights(SMALL, {k: v for k, v in ours.state_dict().items() if "sentence." not in k})
    source = tokens_of(vocabulary)
    present = source.ne(1)
    masked = torch.rand(source.shape).lt(0.3) & present
    asked: list[dict[str, Any]] = [
        {},
        {"masked_tokens": masked},
        {"features_only": True},
        {"features_only": True, "classification_head_name": "sentence"},
        {"features_only": True, "return_all_hiddens": True},
    ]
    for model in (ours, theirs):
        model.eval()
    with torch.inference_mode():
        for options in asked:
            (found, extra), (expected, their_extra) = ours(source, **options), theirs(source, **options)
            chosen = present if found.shape[:2] == source.shape else slice(None)
            torch.testing.assert_close(found[chosen], expected[chosen], atol=1e-5, rtol=0)
            states = their_extra["inner_states"]
            assert (extra["inner_states"] is None) == (states is None)
            for state, other in zip(extra["inner_states"] or [], states or [], strict=True):
                assert state.shape == other.shape
                torch.testing.assert_close(state.transpose(0, 1)[present], other.transpose(0, 1)[present])
        assert torch.equal(ours(source)[0], core(source)[0])
        embeddings = ours.encoder.sentence_encoder.embed_tokens(source)
        given = ours.encoder.extract_features(source, token_embeddings=embeddings)[0]
        assert torch.equal(given, ours(source, features_only=True)[0])


def test_autocast_computes_in_bfloat16(vocabulary: Vocabulary) -> None:
    model, cast = build(vocabulary).eval(), build(vocabulary, autocast=True).eval()
    with torch.inference_mode():
        one, two = (each(tokens_of(vocabulary))[0] for each in (model, cast))
    assert {value.dtype for value in cast.state_dict().values()} == {torch.float32}
    assert 0 < (one - two).abs().max() < 0.1


def test_the_epsilon_of_layer_norms(vocabulary: Vocabulary) -> None:
    def all_eps(model: torch.nn.Module) -> list[float]:
        return [module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]

    assert all_eps(build(vocabulary, layer_norm_eps=3e-7)) == [3e-7] * (1 + 2 * 2 + 1)
    plain = build(vocabulary, RobertaModel)
    set_layer_norm_eps(plain, 3e-7)
    assert all_eps(plain) == [3e-7] * (1 + 2 * 2 + 1)


def test_weights_of_older_releases_load(vocabulary: Vocabulary) -> None:
    """fairseq 0.12.2 saves second copies of each layer's parameters; 2019's releases have other names."""
    model = build(vocabulary)
    state = dict(model.state_dict())
    older = {}
    for name, value in state.items():
        name = name.replace("encoder.", "decoder.", 1).replace(".layernorm_embedding.", ".emb_layer_norm.")
        if ".self_attn.q_proj." in name:
            others = [state[name.replace("decoder.", "encoder.", 1).replace("q_proj", f"{x}_proj")] for x in "kv"]
            older[name.replace("q_proj.", "in_proj_")] = torch.cat([value, *others])
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            older[name] = value
    del older["decoder.sentence_encoder.version"]
    dead = {"encoder.sentence_encoder.layers.0.in_proj_weight": torch.zeros(96, 32)}
    for saved in (older, {**state, **dead}):
        other = build(vocabulary, seed=4)
        other.load_state_dict(dict(saved), strict=True)
        for name, value in state.items():
            assert torch.equal(other.state_dict()[name], value), name


def test_a_ranking_head_leaves_the_lm_head_at_rest(vocabulary: Vocabulary) -> None:
    model = build(vocabulary)
    rest_lm_head(model)
    resting = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    parts = ("bias", "dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias")
    assert resting == {f"encoder.lm_head.{part}" for part in parts}


def test_heads_of_other_tasks_are_dropped(vocabulary: Vocabulary, caplog: Any) -> None:
    state = dict(build(vocabulary).state_dict())
    state["classification_heads.mnli.dense.weight"] = torch.zeros(32, 32)
    state["classification_heads.mnli.dense.bias"] = torch.zeros(32)
    state["classification_heads.mnli.out_proj.weight"] = torch.zeros(3, 32)
    state["classification_heads.mnli.out_proj.bias"] = torch.zeros(3)
    build(vocabulary).load_state_dict(state, strict=True)
    assert "deleting classification head (mnli) from checkpoint" in caplog.text


def test_named_architectures_fill_what_is_not_given() -> None:
    from argparse import Namespace

    given = Namespace(encoder_layers=4)
    fill_config(given, vars(LARGE))
    assert vars(given) == {**vars(LARGE), "encoder_layers": 4}
    assert (BASE.encoder_layers, BASE.encoder_embed_dim, LARGE.encoder_layers) == (12, 768, 24)
