"""The encoder without padding: the same numbers as fairseq's, and the same parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.models.roberta import RobertaModel
from fairseq.models.transformer import TransformerEncoder
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from fairseq_cloze.model.encoder import PackedEncoder, PackedLayer, after_attention, compile_for_all_layers, pack
from fairseq_cloze.plugin.task import make_dictionary
from fairseq_cloze.ranking.ranker import asdict_config

PAD, WIDTH, LAYERS = 1, 48, 3
#: Tokens of each row, and the longest.
LENGTHS = (11, 7, 1, 10)


def build(vocabulary: Any, **options: Any) -> RobertaModel:
    """fairseq's own RoBERTa, with random weights that are the same for the same options."""
    from fairseq_cloze.plugin.model import ClozeRobertaConfig

    config = SimpleNamespace(
        **{
            **asdict_config(ClozeRobertaConfig()),
            **dict(encoder_layers=LAYERS, encoder_embed_dim=WIDTH, encoder_ffn_embed_dim=96, max_positions=16),
            **dict(encoder_attention_heads=4, activation_fn="gelu", dropout=0.0, attention_dropout=0.0),
            **dict(untie_weights_roberta=False),
            **options,
        }
    )
    task = SimpleNamespace(source_dictionary=make_dictionary(vocabulary), max_positions=lambda: 16)
    torch.manual_seed(3)
    model = RobertaModel.build_model(config, task)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def padded_tokens(rows: int = 60) -> Tensor:
    torch.manual_seed(4)
    tokens = torch.randint(4, rows, (len(LENGTHS), max(LENGTHS)))
    return tokens.masked_fill(torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None], PAD)


def run(model: RobertaModel, tokens: Tensor, grad: bool) -> list[Tensor]:
    """Features where there are tokens, and the gradients of all parameters by name."""
    with torch.set_grad_enabled(grad):
        features = model.encoder.extract_features(tokens)[0]
    features = features[tokens.ne(PAD)]
    out: dict[str, Tensor | None] = {}
    if grad:
        model.zero_grad()
        features.square().sum().backward()
        out = {name: parameter.grad for name, parameter in model.named_parameters()}
    return [features.detach(), *(out[name] for name in sorted(out) if out[name] is not None)]  # type: ignore[misc]


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norm before": {"encoder_normalize_before": True},
    "relu": {"activation_fn": "relu"},
    "recomputed": {"checkpoint_activations": True},
    "scaled": {"no_scale_embedding": False, "layernorm_embedding": False},
}


@pytest.mark.parametrize("grad", (True, False))
@pytest.mark.parametrize("variant", VARIANTS)
def test_features_and_gradients_are_fairseqs(vocabulary: Any, variant: str, grad: bool) -> None:
    tokens = padded_tokens()
    model = build(vocabulary, **VARIANTS[variant]).double().train(grad)
    expected = run(model, tokens, grad)
    pack(model)
    assert type(model.encoder.sentence_encoder) is PackedEncoder
    found = run(model, tokens, grad)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        # fairseq's softmax and GELU are single precision in any type
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_single_precision_is_fairseqs(vocabulary: Any) -> None:
    model, tokens = build(vocabulary).eval(), padded_tokens()
    expected = run(model, tokens, False)
    pack(model)
    torch.testing.assert_close(run(model, tokens, False), expected, atol=1e-5, rtol=0)


def test_padding_comes_back_as_zeros_in_fairseqs_shape(vocabulary: Any) -> None:
    model, tokens = build(vocabulary).eval(), padded_tokens()
    pack(model)
    out = model.encoder.sentence_encoder(tokens)
    [features], [mask] = out["encoder_out"], out["encoder_padding_mask"]
    assert features.shape == (max(LENGTHS), len(LENGTHS), WIDTH)
    assert torch.equal(mask, tokens.eq(PAD)) and mask.any()
    assert not features.transpose(0, 1)[mask].any() and features.transpose(0, 1)[~mask].all()


def test_no_layer_sees_padding(vocabulary: Any) -> None:
    model, tokens = build(vocabulary).eval(), padded_tokens()
    pack(model)
    seen: list[Any] = []
    for layer in model.encoder.sentence_encoder.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].shape, output.shape)))
    run(model, tokens, False)
    assert seen == [((sum(LENGTHS), WIDTH), (sum(LENGTHS), WIDTH))] * LAYERS


def test_all_hidden_states_and_given_embeddings_are_fairseqs(vocabulary: Any) -> None:
    model, tokens = build(vocabulary).eval(), padded_tokens()
    embeddings = torch.randn(*tokens.shape, WIDTH)
    cases: list[dict[str, Any]] = [{"return_all_hiddens": True}, {"token_embeddings": embeddings}]
    expected = [model.encoder.extract_features(tokens, **case) for case in cases]
    pack(model)
    found = [model.encoder.extract_features(tokens, **case) for case in cases]
    for (features, extra), (other, other_extra) in zip(found, expected):
        torch.testing.assert_close(features, other, atol=1e-5, rtol=0)
        assert len(extra["inner_states"] or []) == len(other_extra["inner_states"] or [])
    assert len(found[0][1]["inner_states"]) == LAYERS + 1


def test_autocast_computes_everything_after_the_embeddings_in_its_type(vocabulary: Any) -> None:
    model, tokens = build(vocabulary).eval(), padded_tokens()
    pack(model)
    exact = run(model, tokens, False)[0]
    types: list[torch.dtype] = []
    for layer in model.encoder.sentence_encoder.layers:
        layer.register_forward_hook(lambda _, inputs, output: types.extend([inputs[0].dtype, output.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        found = run(model, tokens, False)[0]
    assert types == [torch.bfloat16] * 2 * LAYERS and found.dtype == torch.bfloat16
    off = (found.float() - exact).abs().max() / exact.abs().max()
    assert 0 < off < 0.05


def test_recomputed_activations_are_not_kept(vocabulary: Any) -> None:
    tokens = padded_tokens()

    def kept(recompute: bool) -> int:
        model = build(vocabulary, checkpoint_activations=recompute)
        pack(model)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            model.encoder.extract_features(tokens)
        return sum(saved)

    assert kept(True) < 0.4 * kept(False)


def test_layerdrop_leaves_layers_out(vocabulary: Any) -> None:
    model, tokens = build(vocabulary, encoder_layerdrop=0.5).train(), padded_tokens()
    pack(model)
    calls: list[int] = []
    for layer in model.encoder.sentence_encoder._modules["layers"]._modules.values():
        layer.register_forward_hook(lambda *_: calls.append(1))
    counts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        calls.clear()
        run(model, tokens, True)
        counts.add(len(calls))
    assert {1, 2} < counts <= {0, 1, 2, 3}


def test_names_of_parameters_stay(vocabulary: Any) -> None:
    model = build(vocabulary)
    names = list(model.state_dict())
    pack(model)
    assert list(model.state_dict()) == names


def test_only_plain_encoders_are_packed(vocabulary: Any) -> None:
    class OtherLayer(TransformerEncoderLayerBase):
        pass

    noisy = build(vocabulary, quant_noise_pq=0.5, quant_noise_pq_block_size=4)
    offloading = build(vocabulary, checkpoint_activations=True, offload_activations=True)
    own = build(vocabulary)
    own.encoder.sentence_encoder.layers[1].__class__ = OtherLayer
    for model in (noisy, offloading, own):
        pack(model)
        assert type(model.encoder.sentence_encoder) is TransformerEncoder
        assert not [module for module in model.modules() if isinstance(module, PackedLayer)]


def test_gelu_does_without_float32(pretrained: Any) -> None:
    from fairseq.modules.gelu import gelu

    from fairseq_cloze.ranking.ranker import Scorer

    layers = [each for each in Scorer(pretrained / "model.pt").model.modules() if isinstance(each, PackedLayer)]
    assert len(layers) == 2
    assert all(layer.activation_fn is nn.functional.gelu for layer in layers)
    x = torch.randn(100)
    assert torch.equal(nn.functional.gelu(x), gelu(x))


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
        rest = (parameters, 1e-5, 0.0, 0.0, nn.functional.gelu, False)
        found, expected = compiled(x, attended, *rest), after_attention(x, attended, *rest)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        gradients = [torch.autograd.grad(out.square().sum(), [x, *parameters]) for out in (found, expected)]
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=0)
    assert compilations["unique_graphs"] - before == 1
