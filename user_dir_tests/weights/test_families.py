"""Every family of masked LMs: transformers' logits and gradients, there and back, and what is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.model.masked_lm import MaskedLM
from fairseq_cloze.model.names import HEAD_NAME
from fairseq_cloze.weights.carried import pretrained_state
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.families import FAMILIES
from fairseq_cloze.weights.hugging_face import export_hf, from_hub_names, import_hf, read_hf, to_hub_names

from ..support.families import make, save
from ..support.models import tiny_vocabulary

ROWS = 266  # of the tiny vocabulary
LENGTHS = (40, 126, 1, 77, 5)
RANKING = [name for name, family in FAMILIES.items() if family.ranking is not None]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    found: Vocabulary = tiny_vocabulary()
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> dict[str, Path]:
    """A folder of each family."""
    out = {name: tmp_path_factory.mktemp(name) for name in FAMILIES}
    for name, folder in out.items():
        save(folder, name, vocabulary)
    return out


def ragged() -> Tensor:
    tokens = torch.randint(4, ROWS, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    return tokens.masked_fill(torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None], 1)


def theirs(model: Any, tokens: Tensor) -> Tensor:
    """Logits of transformers where there are tokens."""
    present = tokens.ne(1)
    logits: Tensor = model(tokens, attention_mask=present.long()).logits[present]
    return logits


def ours(checkpoint: Checkpoint, tokens: Tensor) -> Tensor:
    model = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights)
    with torch.inference_mode():
        return model(tokens)[0][tokens.ne(1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(family: str, tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Imported, saved, read, exported and loaded again: the same logits, and the same weights to the bit."""
    model, lines = save(tmp_path / "hf", family, vocabulary).eval(), []
    path = import_hf(tmp_path / "hf", tmp_path / "out", announce=lines.append)
    assert re.fullmatch(r".*: 146 token ids as in its tokenizer, logits as in transformers .*", lines[-1])
    checkpoint = Checkpoint.read(path)
    checkpoint.require_sound()
    assert checkpoint.architecture == read_hf(tmp_path / "hf").architecture
    assert checkpoint.architecture.family == family
    assert checkpoint.option("arch") == ("roberta_base" if family == "roberta" else "cloze_lm")
    tokens = ragged()
    with torch.inference_mode():
        expected = theirs(model, tokens)
    assert (ours(checkpoint, tokens) - expected).abs().max() < 1e-5 < 0.5 < expected.std()
    name = export_hf(checkpoint, tmp_path / "back")
    assert name == type(model).__name__
    back = getattr(transformers, name).from_pretrained(tmp_path / "back").eval()
    with torch.inference_mode():
        assert (theirs(back, tokens) - expected).abs().max() < 1e-5
    again = Checkpoint.read(import_hf(tmp_path / "back", tmp_path / "again"))
    assert again.architecture == checkpoint.architecture
    assert all(again.weights[key].equal(value) for key, value in checkpoint.weights.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_is_that_of_transformers(family: str, tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Loss and gradients of all weights, of a ragged batch with masks."""
    model = save(tmp_path, family, vocabulary).train()
    checkpoint = read_hf(tmp_path)
    own = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights).train()
    tokens = ragged()
    gold = tokens[tokens.ne(1)]
    expected_loss = cross_entropy(theirs(model, tokens), gold)
    loss = cross_entropy(own(tokens)[0][tokens.ne(1)], gold)
    expected_loss.backward()
    loss.backward()
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=0)
    gradients = {name: torch.zeros_like(value) for name, value in own.state_dict().items()}
    gradients |= {name: value.grad for name, value in own.named_parameters()}  # all have one
    found = to_hub_names(gradients, FAMILIES[family], checkpoint.architecture, False, None)
    compared = set()
    for name, value in model.named_parameters():
        if "token_type" not in name:  # folded into the positions, whose gradients they are in sum
            torch.testing.assert_close(found[name], value.grad, atol=1e-4, rtol=1e-4, msg=name)
            compared.add(name)
    assert {name for name in found if "token_type" not in name} == compared


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_rows_in_another_order(family: str) -> None:
    """What the reader sorts is sorted back by the writer."""
    model = make(family, ROWS).eval()
    table = FAMILIES[family]
    weights = {name: value for name, value in model.state_dict().items() if "decoder" not in name}
    weights[table.bias] = model.state_dict()[table.bias]
    config = {**dict.fromkeys(table.dropouts, 0.0), **model.config.to_dict()}
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2)).tolist()
    shape = table.architecture(config, 126, untied=False)
    converted = from_hub_names(weights, table, shape, order, Path("x"))
    own, tokens = MaskedLM.from_weights(shape, converted), ragged()
    rows = torch.tensor(order)
    with torch.inference_mode():
        present = tokens.ne(1)
        expected = model(rows[tokens], attention_mask=present.long()).logits[present]
        torch.testing.assert_close(own(tokens)[0][present], expected[:, rows], atol=1e-5, rtol=0)
    back = to_hub_names(converted, table, shape, False, order)
    assert all(value.equal(model.state_dict()[name]) for name, value in back.items() if "_type_" not in name
               and "position" not in name)  # fmt: skip


def headed(checkpoint: Checkpoint) -> Checkpoint:
    """With a random ranking head beside the weights."""
    model = MaskedLM(checkpoint.architecture, checkpoint.rows, ranking_head=True)
    assert model.load_state_dict(checkpoint.weights, strict=False).unexpected_keys == []
    for parameter in model.classification_heads[HEAD_NAME].parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Checkpoint({**checkpoint.state, "model": model.state_dict()}, "headed.pt")


@pytest.mark.parametrize("family", RANKING)
def test_a_ranking_head_scores_as_their_multiple_choice(family: str, tmp_path: Path, vocabulary: Vocabulary) -> None:
    save(tmp_path / "hf", family, vocabulary)
    checkpoint = headed(read_hf(tmp_path / "hf"))
    name = export_hf(checkpoint, tmp_path / "back")
    assert name == f"{FAMILIES[family].classes}ForMultipleChoice"
    model = getattr(transformers, name).from_pretrained(tmp_path / "back").eval()
    own = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights, ranking_head=True)
    tokens = ragged()
    with torch.inference_mode():
        found = own(tokens, features_only=True, classification_head_name=HEAD_NAME)[0][:, 0]
        expected = model(tokens[None], attention_mask=tokens.ne(1).long()[None]).logits[0]
    assert (found - expected).abs().max() < 1e-5 < expected.std()


def test_a_ranking_head_that_theirs_computes_otherwise(tmp_path: Path, vocabulary: Vocabulary) -> None:
    save(tmp_path / "hf", "modernbert", vocabulary)
    with pytest.raises(CheckpointError) as error:
        export_hf(headed(read_hf(tmp_path / "hf")), tmp_path / "back")
    assert str(error.value) == (
        "headed.pt: its ranking head cannot be exported, that of Hugging Face's ModernBERT computes otherwise"
    )


@pytest.mark.parametrize(
    ("family", "option", "value", "problem"),
    [
        ("bert", "activation_fn", "tanh", "activation_fn tanh cannot be exported, Hugging Face's BERT has none such"),
        ("modernbert", "family", "bert", "norm_first True cannot be exported, Hugging Face's BERT has none such"),
        (
            "bert",
            "family",
            "modernbert",
            "norm_first False cannot be exported, Hugging Face's ModernBERT has none such",
        ),
        ("bert", "family", "x", "expected one of the families {}, found x; it cannot be exported"),
    ],
)
def test_shapes_that_their_family_does_not_have(
    family: str, option: str, value: str, problem: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    state = read_hf(folders[family]).state
    setattr(state["args"], option, value)
    with pytest.raises(CheckpointError) as error:
        export_hf(Checkpoint(state, "x.pt"), tmp_path / "back")
    assert str(error.value) == f"x.pt: {problem.format(', '.join(FAMILIES))}"
    assert not (tmp_path / "back").exists()


# -- refused by name ---------------------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_hf(folder)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "SRC")


DISTANCE = "its attention knows the distance of tokens, which is not computed here"
DECODER = "it reads from left to right only, so it sees nothing of the text behind a blank"
DISCRIMINATOR = "it is ELECTRA's discriminator, which judges tokens and predicts none; take the generator"
WRITES = "it writes text, and does not score what fills a blank"


@pytest.mark.parametrize(
    ("kind", "cls", "found"),
    [
        ("deberta", "DebertaForMaskedLM", f"deberta (DebertaForMaskedLM); {DISTANCE}"),
        ("deberta-v2", None, f"deberta-v2; {DISTANCE}"),
        ("mpnet", "MPNetForMaskedLM", f"mpnet (MPNetForMaskedLM); {DISTANCE}"),
        ("gpt2", "GPT2LMHeadModel", f"gpt2 (GPT2LMHeadModel); {DECODER}"),
        ("smollm3", "SmolLM3ForCausalLM", f"smollm3 (SmolLM3ForCausalLM); {DECODER}"),
        ("t5", "T5ForConditionalGeneration", f"t5 (T5ForConditionalGeneration); {WRITES}"),
        ("electra", "ElectraForPreTraining", f"electra (ElectraForPreTraining); {DISCRIMINATOR}"),
        ("clip", None, "clip"),
        (None, None, "None"),
    ],
)
def test_other_models(kind: str | None, cls: str | None, found: str, tmp_path: Path) -> None:
    config = {"model_type": kind, **({"architectures": [cls]} if cls else {})}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert refused(tmp_path) == (
        f"SRC: expected a masked LM with model_type {', '.join(FAMILIES)}, found {found}; such a model "
        "cannot be imported"
    )


@pytest.fixture
def changed(folders: dict[str, Path], tmp_path: Path) -> Callable[..., str]:
    """What is said of a folder of a family with another configuration or other weights."""

    def change(family: str, edit: Callable[[dict[str, Tensor]], Any] = lambda weights: None, **fields: Any) -> str:
        for path in folders[family].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
        weights = load_file(tmp_path / "model.safetensors")
        edit(weights)
        save_file(weights, tmp_path / "model.safetensors")
        return refused(tmp_path)

    return change


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_missing(family: str, changed: Callable[..., str]) -> None:
    """The LM head, its bias, the embedding, a part of a layer, another shape of one."""
    table = FAMILIES[family]
    lost = changed(
        family, lambda weights: [weights.pop(name) for name in [*weights] if not name.startswith(table.body)]
    )
    release = f"expected the weights of {table.masked_lm}, found no"
    assert lost == f"SRC: {release} LM head ({table.head_weight}); take the masked-LM release of the model"
    bias = changed(family, lambda weights: weights.pop(table.bias))
    assert bias == f"SRC: expected {table.bias}, found none; the LM head is incomplete"
    tokens = table.place(table.tokens)
    embedding = changed(family, lambda weights: weights.pop(tokens))
    assert embedding == f"SRC: {release} encoder ({tokens}); take the masked-LM release of the model"
    modules = [theirs for theirs, ours in table.encoder.items() if "{}" in ours[0] and ours[0].endswith(".fc2")]
    name = f"{modules[0].format(0)}.weight"
    why = "the weights are incomplete, or of another model than config.json: copy or download them again"
    assert changed(family, lambda weights: weights.pop(name)) == (f"SRC: {name}: expected (48, 64), found none; {why}")
    cut = changed(family, lambda weights: weights.update({name: weights[name][:-1].clone()}))
    assert cut == f"SRC: {name}: expected (48, 64), found (47, 64); {why}"


def in_config(field: str, expected: str, found: str) -> str:
    return f"SRC: config.json: {field}: expected {expected}, found {found}; copy or download it again"


def never(name: str, field: str, expected: str, found: str) -> str:
    return f"SRC: expected {field} {expected}, as {name} has, found {found}; such a model cannot be imported"


def layers(found: str) -> str:
    return (
        "SRC: config.json: layer_types: expected full_attention in the first layer and every so many behind it, "
        f"sliding_attention in all others, found {found[:60]}; such a model cannot be imported"
    )


def bases(found: str) -> str:
    return (
        "SRC: config.json: rope_parameters: expected rope_theta alone for each of full_attention and "
        f"sliding_attention, as ModernBERT has, found {found}; such a model cannot be imported"
    )


@pytest.mark.parametrize(
    ("family", "field", "value", "problem"),
    [
        ("albert", "num_hidden_groups", 2, never("ALBERT", "num_hidden_groups", "1", "2")),
        ("albert", "num_hidden_layers", 10**9, in_config("num_hidden_layers", "a number below 1000", "1000000000")),
        ("albert", "embedding_size", 0, in_config("embedding_size", "a number from 1 on", "0")),
        ("bert", "hidden_act", "silu", in_config("hidden_act", "one of gelu, gelu_new, relu", "silu")),
        ("bert", "position_embedding_type", "relative_key", never("BERT", "position_embedding_type", "absolute",
                                                                  "relative_key")),
        ("electra", "hidden_act", "relu", never("ELECTRA's generator", "hidden_act", "gelu", "relu")),
        ("camembert", "pad_token_id", 0, never("CamemBERT", "pad_token_id", "1", "0")),
        ("modernbert", "mlp_bias", True, never("ModernBERT", "mlp_bias", "False", "True")),
        ("modernbert", "global_rope_theta", "x", in_config("global_rope_theta", "a number above 1", "x")),
        ("modernbert", "layer_types", [], layers("[]")),
        ("modernbert", "layer_types", 3, layers("3")),
        ("modernbert", "layer_types", ["sliding_attention"] * 3, layers('["sliding_attention", "sliding_attention", '
                                                                        '"sliding_attention"]')),
        ("modernbert", "layer_types", ["full_attention"] * 2, in_config("layer_types", "one for each of 3 layers",
                                                                        "a list")),
        ("modernbert", "rope_parameters", [], bases('"": []')),
        ("modernbert", "rope_parameters", {"rope_theta": 1e4}, bases('"rope_theta": 10000.0')),
        ("modernbert", "rope_parameters", {"full_attention": {"rope_type": "yarn", "factor": 4}},
         bases('"full_attention": {"rope_type": "yarn", "factor": 4}')),
        ("modernbert", "rope_parameters", {"full_attention": {"rope_theta": 0}},
         in_config("global_rope_theta", "a number above 1", "0")),
        ("modernbert", "num_attention_heads", 16, in_config("num_attention_heads", "a number that divides hidden_size "
                                                            "48 into even parts", "16")),
        ("distilbert", "n_layers", 2, "SRC: config.json says n_layers 2, the weights have 3; they are of two models, "
                                      "or cut down: copy or download both again"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be(
    family: str, field: str, value: Any, problem: str, changed: Callable[..., str]
) -> None:
    assert changed(family, **{field: value}) == problem


def test_one_base_for_all_layers(tmp_path: Path, vocabulary: Vocabulary) -> None:
    model = save(tmp_path, "modernbert", vocabulary, local_rope_theta=None).eval()
    checkpoint = read_hf(tmp_path)
    assert checkpoint.architecture.local_rotary_base == checkpoint.architecture.rotary_base == 160_000
    with torch.inference_mode():
        assert (ours(checkpoint, ragged()) - theirs(model, ragged())).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("every", "kinds"),
    [(2, "fsf"), (1, "fff"), (3, "fss"), (9, "fss")],
)
def test_a_modernbert_as_transformers_5_writes_it(
    tmp_path: Path, vocabulary: Vocabulary, every: int, kinds: str
) -> None:
    """Its layers by name and the bases of their positions in a table: the same model."""
    model = save(tmp_path, "modernbert", vocabulary, global_attn_every_n_layers=every, local_rope_theta=500.0).eval()
    config = json.loads((tmp_path / "config.json").read_text())
    for field in ("global_attn_every_n_layers", "local_rope_theta", "global_rope_theta"):
        del config[field]
    names = {"f": "full_attention", "s": "sliding_attention"}
    config["layer_types"] = [names[kind] for kind in kinds]
    config["rope_parameters"] = {
        "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 500.0, "rope_type": "default"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = read_hf(tmp_path)
    assert (checkpoint.architecture.local_rotary_base, checkpoint.architecture.rotary_base) == (500, 160_000)
    with torch.inference_mode():
        assert (ours(checkpoint, ragged()) - theirs(model, ragged())).abs().max() < 1e-5


@pytest.mark.parametrize(("family", "product"), [("albert", True), ("electra", False)])
def test_embeddings_as_wide_as_the_encoder(family: str, product: bool, tmp_path: Path, vocabulary: Vocabulary) -> None:
    """ALBERT has a product behind them even then."""
    model = save(tmp_path, family, vocabulary, embedding_size=48).eval()
    checkpoint = read_hf(tmp_path)
    assert checkpoint.architecture.embedding_dim == (48 if product else 0)
    with torch.inference_mode():
        assert (ours(checkpoint, ragged()) - theirs(model, ragged())).abs().max() < 1e-5


def test_the_token_types_of_bert(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """The first is in every position, and the rows before the first position are empty."""
    model = save(tmp_path, "bert", vocabulary)
    embeddings = model.bert.embeddings
    checkpoint = read_hf(tmp_path)
    assert checkpoint.notes == [f"{tmp_path}: left out 1 of 2 token types, which stand for a second text"]
    found = checkpoint.weights["encoder.sentence_encoder.embed_positions.weight"]
    assert found[2:].equal(
        (embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]).detach()
    )
    assert found.shape == (128, 48) and not found[:2].any()


# -- checkpoints -------------------------------------------------------------------------------------------------------


BASES, MANY = "a number from 0 to 1,000,000,000", "to 16,777,216"
NORM = "encoder.sentence_encoder.layers.0.self_attn_layer_norm.weight"


@pytest.mark.parametrize(
    ("family", "option", "value", "problem"),
    [
        ("modernbert", "rotary_base", -1.0, f"option rotary_base: expected {BASES}, found -1.0"),
        ("modernbert", "max_positions", "9", f"option max_positions: expected a number from 1 {MANY}, found 9"),
        ("modernbert", "local_attention", -2, f"option local_attention: expected a number from 0 {MANY}, found -2"),
        ("modernbert", "global_every", 0, f"option global_every: expected a number from 1 {MANY}, found 0"),
        ("modernbert", "gated", 2, "option gated: expected true or false, found 2"),
        ("modernbert", "encoder_attention_heads", 16, "option rotary_base: expected none, as heads have the odd width "
                                                      "3, found 160000.0"),
        ("modernbert", "norm_first", False, f"weights do not fit the model, {NORM}: expected (48,), found none"),
        ("albert", "encoder_layers", 10**9, "option encoder_layers: expected a number from 1 to 999, found 1000000000"),
        ("albert", "shared_layers", False, "weights do not fit the model, expected 3 layers as configured, found 1"),
        ("bert", "family", 3, "option family: expected a text, found 3"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(family: str, option: str, value: Any, problem: str, folders: dict[str, Path]) -> None:
    checkpoint = read_hf(folders[family])
    changed = pretrained_state(checkpoint.weights, checkpoint.architecture, checkpoint.require_vocabulary())
    setattr(changed["args"], option, value)
    with pytest.raises(CheckpointError) as error:
        Checkpoint(changed, "x.pt").require_sound()
    assert str(error.value) == f"x.pt: {problem}; take the original file"
