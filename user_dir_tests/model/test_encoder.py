"""The encoder without padding: the numbers, parameters and random draws of fairseq's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.model.encoder import (
    ACTIVATIONS,
    Encoder,
    after_attention,
    compile_for_all_layers,
)

from ..support.encoders import ENTRIES, LAYERS, LENGTHS, PAD, SHAPE, WIDTH, build, tokens_of


def fairseqs(encoder: Encoder, activation: str = "gelu", eps: float = 1e-5) -> nn.Module:
    """fairseq's own encoder with the same weights."""
    from types import SimpleNamespace

    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel

    dictionary = Dictionary()
    for number in range(ENTRIES - 4):
        dictionary.add_symbol(str(number))
    shape = {"encoder_layers": LAYERS, "encoder_embed_dim": WIDTH, "encoder_ffn_embed_dim": 96, "max_positions": 16}
    off = {"dropout": 0.0, "attention_dropout": 0.0, "encoder_attention_heads": 4, "activation_fn": activation}
    task = SimpleNamespace(source_dictionary=dictionary, max_positions=lambda: 16)
    model = RobertaModel.build_model(SimpleNamespace(**shape, **off), task).encoder.sentence_encoder
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    assert list(model.state_dict()) == list(encoder.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in encoder.named_parameters()]
    model.load_state_dict(encoder.state_dict())
    return model


def with_gradients(model: nn.Module, features: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Features where there are tokens, and the gradients of all parameters by name."""
    features = features[tokens.ne(PAD)]
    model.zero_grad()
    features.square().sum().backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"features": features.detach(), **gradients}


@pytest.mark.parametrize("lengths", [LENGTHS, (9, 9)], ids=["ragged", "even"])
@pytest.mark.parametrize("variant", ["plain", "relu", "gelu_accurate", "recomputed", "eps"])
def test_features_and_gradients_are_fairseqs(variant: str, lengths: tuple[int, ...]) -> None:
    tokens = tokens_of(lengths)
    activation = variant if variant in ACTIVATIONS else "gelu"
    eps = 0.01 if variant == "eps" else 1e-5
    shape = Architecture(LAYERS, WIDTH, 96, 4, 16, activation_fn=activation, layer_norm_eps=eps)
    ours = build(shape, recompute=variant == "recomputed").train()
    theirs = fairseqs(ours, activation, eps).train()
    expected = with_gradients(theirs, theirs(tokens)["encoder_out"][0].transpose(0, 1), tokens)
    found = with_gradients(ours, ours(tokens), tokens)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=2e-5, msg=name)


def test_padding_comes_back_as_zeros() -> None:
    tokens = tokens_of()
    features = build().eval()(tokens)
    assert features.shape == (len(LENGTHS), max(LENGTHS), WIDTH)
    assert not features[tokens.eq(PAD)].any() and features[tokens.ne(PAD)].all()


def test_padding_inside_a_row_counts_no_position() -> None:
    """As in fairseq: positions count tokens, wherever the padding stands."""
    encoder = build().eval()
    tokens = torch.tensor([[5, 6, PAD, 7]])
    torch.testing.assert_close(encoder(tokens)[0, [0, 1, 3]], encoder(torch.tensor([[5, 6, 7]]))[0])


def test_no_layer_sees_padding() -> None:
    encoder = build().eval()
    seen: list[Any] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].shape, output.shape)))
    encoder(tokens_of())
    assert seen == [((sum(LENGTHS), WIDTH), (sum(LENGTHS), WIDTH))] * LAYERS


#: Shapes whose last layer differs: in norms, in positions, in what it looks at, in whose weights it has.
SHAPES = {
    "roberta": SHAPE,
    "albert": replace(SHAPE, embedding_dim=16, shared_layers=True),
    "modernbert": replace(SHAPE, norm_first=True, gated=True, without_biases=True, rotary_base=160000.0),
    "local": replace(SHAPE, rotary_base=99.0, local_rotary_base=9.0, local_attention=4, global_every=3),
}


@pytest.mark.parametrize("known", [False, True], ids=["asked", "known"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_read_alone_is_what_it_is_among_all(shape: str, recompute: bool, known: bool) -> None:
    """Outputs and gradients, in rows of which many tokens are read, one, and none."""
    tokens = tokens_of()
    reads = torch.tensor([1, 4, 10, 22, 33, 42])
    counts = {"row_lengths": list(LENGTHS), "read_counts": [3, 0, 1, 2]} if known else {}
    encoder = build(SHAPES[shape], recompute=recompute).double().train()
    assert shape != "local" or encoder.layers[-1].is_local
    found: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for into, features in (
        (found, encoder(tokens, reads=reads, **counts)),
        (expected, encoder(tokens).flatten(0, 1)[reads]),
    ):
        encoder.zero_grad()
        features.square().sum().backward()
        into.update({name: value.grad for name, value in encoder.named_parameters()}, features=features.detach())
    assert found["features"].shape == (6, WIDTH)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-10, rtol=1e-10, msg=name)


def test_the_last_layer_computes_no_more_than_is_read() -> None:
    """Keys and values of all tokens, everything else of two: counted in multiplications with their additions."""
    encoder, tokens, inner = build().eval(), tokens_of((9, 9)), 96
    with FlopCounterMode(display=False) as counter:
        assert encoder(tokens, reads=torch.tensor([3, 12])).shape == (2, WIDTH)

    def layer(queries: int, tokens: int, lengths: int) -> int:
        products = queries * (2 * WIDTH * WIDTH + 2 * WIDTH * inner) + tokens * 2 * WIDTH * WIDTH
        return 2 * (products + queries * lengths * 2 * WIDTH)

    assert counter.get_total_flops() == (LAYERS - 1) * layer(18, 18, 9) + layer(2, 18, 9)


def test_reads_where_every_layer_is_left_out() -> None:
    encoder, tokens = build(layerdrop=1.0).train(), tokens_of()
    torch.testing.assert_close(encoder(tokens, reads=torch.tensor([1, 12])), encoder(tokens).flatten(0, 1)[[1, 12]])


def test_all_hidden_states_and_given_embeddings_are_fairseqs() -> None:
    encoder, tokens = build().eval(), tokens_of()
    theirs, present = fairseqs(encoder).eval(), tokens.ne(PAD)
    embeddings = torch.randn(*tokens.shape, WIDTH)
    for given in (None, embeddings):
        states: list[Tensor] = []
        features = encoder(tokens, states, given)
        expected = theirs(tokens, return_all_hiddens=True, token_embeddings=given)
        assert len(states) == len(expected["encoder_states"]) == LAYERS + 1
        assert torch.equal(states[-1], features)
        for found, state in zip(states, expected["encoder_states"]):
            torch.testing.assert_close(found[present], state.transpose(0, 1)[present], atol=1e-5, rtol=0)


def test_autocast_computes_everything_after_the_embeddings_in_its_type() -> None:
    encoder, tokens = build().eval(), tokens_of()
    exact = encoder(tokens)
    types: list[torch.dtype] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _, inputs, output: types.extend([inputs[0].dtype, output.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(tokens)
    assert types == [torch.bfloat16] * 2 * LAYERS and found.dtype == torch.bfloat16
    off = (found.float() - exact).abs().max() / exact.abs().max()
    assert 0 < off < 0.05


def test_recomputed_activations_are_not_kept() -> None:
    def kept(recompute: bool) -> int:
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            build(recompute=recompute)(tokens_of())
        return sum(saved)

    assert kept(True) < 0.4 * kept(False)


@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_acts_in_training_alone(option: str) -> None:
    tokens = tokens_of()
    plain, dropping = build(), build(**{option: 0.5})
    expected = plain(tokens)
    torch.manual_seed(1)
    one, two = dropping.train()(tokens), dropping(tokens)
    assert not torch.allclose(one, expected, atol=1e-2) and not torch.allclose(one, two, atol=1e-2)
    assert torch.equal(dropping.eval()(tokens), expected)


def test_layerdrop_leaves_layers_out_in_training() -> None:
    encoder, tokens = build(layerdrop=0.5).train(), tokens_of()
    calls: list[int] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda *_: calls.append(1))

    def counts() -> set[int]:
        found = set()
        for seed in range(20):
            torch.manual_seed(seed)
            calls.clear()
            encoder(tokens)
            found.add(len(calls))
        return found

    assert {1, 2} < counts() <= {0, 1, 2, 3}
    encoder.eval()
    assert counts() == {3}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_fairseqs(name: str) -> None:
    from fairseq.utils import get_activation_fn

    x = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(ACTIVATIONS[name](x), get_activation_fn(name)(x), atol=1e-6, rtol=0)


def test_shapes_that_cannot_be() -> None:
    def problem(shape: Architecture) -> str:
        with pytest.raises(ValueError) as error:
            build(shape)
        return str(error.value)

    assert problem(Architecture(1, WIDTH, 96, 5, 16)) == (
        "the width of the encoder, 48, must be a multiple of its attention heads, 5"
    )
    assert problem(Architecture(1, WIDTH, 96, 4, 16, activation_fn="step")) == (
        "expected an activation function, one of gelu, gelu_accurate, gelu_fast, linear, relu, tanh; found 'step'"
    )


@pytest.mark.slow
def test_compiled_layers_compute_the_same_for_any_number_of_tokens() -> None:
    torch.manual_seed(0)
    shapes = [(64, 64), (64,), (64,), (64,), (128, 64), (128,), (64, 128), (64,), (64,), (64,)]
    parameters = [nn.Parameter(0.1 * torch.randn(*shape)) for shape in shapes]
    compiled = compile_for_all_layers(after_attention)
    compilations = torch._dynamo.utils.counters["stats"]
    before = compilations["unique_graphs"]
    for tokens in (7, 20, 33):
        x, attended = torch.randn(tokens, 64, requires_grad=True), torch.randn(tokens, 64)
        rest = (parameters, 1e-5, 0.0, 0.0, nn.functional.gelu)
        found, expected = compiled(x, attended, *rest), after_attention(x, attended, *rest)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        gradients = [torch.autograd.grad(out.square().sum(), [x, *parameters]) for out in (found, expected)]
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=0)
    assert compilations["unique_graphs"] - before == 1


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same() -> None:
    tokens = tokens_of()
    torch.testing.assert_close(build(compiled=True)(tokens), build()(tokens), atol=1e-5, rtol=0)
