"""A small RoBERTa that starts from what a larger one knows.

python shrink.py TEACHER TEXT DATA --out FILE [--layers N] [--dim N] [--ffn N] [--heads N]

TEACHER is a model.pt with its vocabulary beside it, TEXT some prose, DATA the folder that binarize.py wrote.  The small
model's stream is the larger one's in the directions of most variance; it keeps the heads and neurons that move these
most, and each matrix that writes into the stream is fitted by least squares to what the larger model does on TEXT, one
sub-layer after the other.  Embedding rows are those of the larger model, projected; of a token that is several of the
larger model's, their mean.  The result is only a start for pretraining: much better than random numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from binarize import paragraphs
from torch import Tensor

from fairseq_cloze.data.fairseq_files import SPECIAL_SYMBOLS
from fairseq_cloze.data.vocabulary import BOS, EOS, PAD, Vocabulary
from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.weights.carried import pretrained_state, save_state
from fairseq_cloze.weights.checkpoint import Checkpoint

RIDGE = 1e-3


def main() -> None:
    """Write the small model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 3, 5], help="layers of TEACHER that are kept")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--ffn", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--length", type=int, default=128, help="positions of the small model")
    parser.add_argument("--samples", type=int, default=300, help="samples of that many tokens to fit to")
    options = parser.parse_args()
    torch.manual_seed(1)
    teacher = Checkpoint.read(options.teacher)
    shape = teacher.architecture
    head = shape.encoder_embed_dim // shape.encoder_attention_heads
    if options.dim != options.heads * head:
        parser.error(f"the heads of {options.teacher} are {head} wide: --dim has to be {head} times --heads")
    if options.length > shape.max_positions or max(options.layers) >= shape.encoder_layers:
        parser.error(f"{options.teacher} has {shape.max_positions} positions and {shape.encoder_layers} layers")
    weights = {name: value.float() for name, value in teacher.weights.items()}
    theirs, ours = Vocabulary.load(options.teacher.parent), Vocabulary.load(options.data)
    tokens = sample(theirs, options.text, options.samples, options.length)
    small = shrink(weights, shape, tokens, options.layers, options.dim, options.ffn, options.heads)
    rows = average_rows(theirs, ours)
    for name in ("encoder.sentence_encoder.embed_tokens.weight", "encoder.lm_head.bias"):
        small[name] = torch.stack([small[name][row].mean(dim=0) for row in rows])
    table = "encoder.sentence_encoder.embed_positions.weight"
    small[table] = small[table][: options.length + PAD + 1].clone()
    small["encoder.lm_head.weight"] = small["encoder.sentence_encoder.embed_tokens.weight"]
    architecture = Architecture(
        encoder_layers=len(options.layers),
        encoder_embed_dim=options.dim,
        encoder_ffn_embed_dim=options.ffn,
        encoder_attention_heads=options.heads,
        max_positions=options.length,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_state(pretrained_state(small, architecture, ours), options.out)
    parameters = sum(value.numel() for name, value in small.items() if name != "encoder.lm_head.weight")
    print(f"wrote {options.out}, {parameters:,} parameters")


def sample(vocabulary: Vocabulary, text: Path, number: int, length: int) -> Tensor:
    """Masked samples of a text, every 20th block of paragraphs, ``int64 (samples, length)``."""
    rows: list[int] = []
    for index, paragraph in enumerate(paragraphs(text)):
        if index % 400 < 20:
            rows += [*vocabulary.encode([paragraph])[0].tolist(), EOS]
    tokens = torch.tensor(rows)
    tokens = tokens[: len(tokens) // (length - 1) * (length - 1)].view(-1, length - 1)
    tokens = tokens[torch.randperm(len(tokens))[:number]]
    tokens = torch.cat([torch.full((len(tokens), 1), BOS), tokens], dim=1)
    masked = torch.rand(tokens.shape) < 0.15
    masked[:, 0] = False
    return tokens.masked_fill(masked, vocabulary.mask)


def average_rows(theirs: Vocabulary, ours: Vocabulary) -> list[Tensor]:
    """For each of our embedding rows the rows of theirs that spell it."""
    rows = []
    for row, symbol in enumerate(ours.symbols):
        if symbol in SPECIAL_SYMBOLS:
            found = [theirs.symbols.index(symbol)]
        elif row == ours.mask:
            found = [theirs.mask]
        else:
            found = theirs.encode([ours.decode([row])])[0].tolist()
        rows.append(torch.tensor(found))
    return rows


@torch.no_grad()
def shrink(
    weights: dict[str, Tensor],
    shape: Architecture,
    tokens: Tensor,
    layers: list[int],
    dim: int,
    ffn: int,
    heads: int,
) -> dict[str, Tensor]:
    """Weights of a small model with the teacher's vocabulary.

    Args:
        weights: the teacher's, by fairseq's names
        shape: the teacher's
        tokens: ``int64 (samples, length)``
        layers: layers of the teacher that are kept
        dim: width of the small model
        ffn: width of its feed-forward layers
        heads: its attention heads, as wide as the teacher's are
    """
    prefix = "encoder.sentence_encoder."
    states, middles, inner, attended, head = run(weights, shape, tokens, layers)
    width = shape.encoder_embed_dim
    head_dim = width // shape.encoder_attention_heads
    flat = [state.reshape(-1, width) for state in states]

    # directions of most variance of the stream and of the embedding
    used = torch.bincount(tokens.flatten(), minlength=len(weights[prefix + "embed_tokens.weight"])) > 0
    spread = torch.zeros(width, width)
    for values in [*flat, *[middle.reshape(-1, width) for middle in middles]]:
        covariance = values.T.cov()
        spread += covariance / covariance.trace()
    table = weights[prefix + "embed_tokens.weight"]
    covariance = table[used].T.cov()
    spread += len(flat) * covariance / covariance.trace()
    basis = torch.linalg.eigh(spread)[1][:, -dim:]  # (width, dim)
    print(f"{dim} of {width} directions hold {basis.T.mm(spread).mm(basis).trace() / spread.trace():.1%}")

    out: dict[str, Tensor] = {f"{prefix}version": torch.tensor([3.0])}
    out[prefix + "embed_tokens.weight"] = table @ basis
    positions = weights[prefix + "embed_positions.weight"]
    out[prefix + "embed_positions.weight"] = positions @ basis
    places = torch.arange(2, 2 + tokens.size(1))
    x = out[prefix + "embed_tokens.weight"][tokens] + out[prefix + "embed_positions.weight"][places]
    mean = flat[0].mean(dim=0)
    x = fit_norm(out, prefix + "layernorm_embedding", x, (states[0] - mean) @ basis)

    for number, layer in enumerate(layers):
        old, new = f"{prefix}layers.{layer}.", f"{prefix}layers.{number}."
        out_proj = weights[old + "self_attn.out_proj.weight"]
        moved = attended[layer].reshape(-1, shape.encoder_attention_heads, head_dim)
        parts = [
            (moved[:, head] @ (basis.T @ out_proj[:, head * head_dim : (head + 1) * head_dim]).T).var(dim=0).sum()
            for head in range(shape.encoder_attention_heads)
        ]
        kept = torch.stack(parts).topk(heads)[1].sort()[0]
        columns = (kept[:, None] * head_dim + torch.arange(head_dim)).flatten()
        for kind in ("q_proj", "k_proj", "v_proj"):
            matrix = weights[f"{old}self_attn.{kind}.weight"][columns]
            out[f"{new}self_attn.{kind}.weight"] = matrix @ basis
            out[f"{new}self_attn.{kind}.bias"] = weights[f"{old}self_attn.{kind}.bias"][columns] + matrix @ mean
        values = attention(out, new, x, heads)
        mean = middles[layer].reshape(-1, width).mean(dim=0)
        target = (middles[layer] - mean) @ basis
        update = fit(out, new + "self_attn.out_proj", values, target - x)
        x = fit_norm(out, new + "self_attn_layer_norm", x + update, target)

        neurons = inner[layer].reshape(-1, inner[layer].size(-1))
        worth = neurons.var(dim=0) * (basis.T @ weights[old + "fc2.weight"]).square().sum(dim=0)
        kept = worth.topk(ffn)[1].sort()[0]
        matrix = weights[old + "fc1.weight"][kept]
        out[new + "fc1.weight"] = matrix @ basis
        out[new + "fc1.bias"] = weights[old + "fc1.bias"][kept] + matrix @ mean
        values = F.gelu(F.linear(x, out[new + "fc1.weight"], out[new + "fc1.bias"]))
        goal = states[layers[number + 1]] if number + 1 < len(layers) else states[-1]  # what the next layer expects
        mean = goal.reshape(-1, width).mean(dim=0)
        target = (goal - mean) @ basis
        update = fit(out, new + "fc2", values, target - x)
        x = fit_norm(out, new + "final_layer_norm", x + update, target)
        print(f"layer {number} from {layer}: {1 - (target - x).var() / target.var():.1%} of the variance")

    # The LM head: with a bias that keeps GELU out of the way it starts as a linear map.
    target = head @ basis
    matrix = torch.linalg.lstsq(with_one(x.reshape(-1, dim)), target.reshape(-1, dim))[0]
    out["encoder.lm_head.dense.weight"] = matrix[:-1].T.contiguous()
    offset = 3 * float(target.std())
    out["encoder.lm_head.dense.bias"] = matrix[-1] + offset
    values = F.gelu(F.linear(x, out["encoder.lm_head.dense.weight"], out["encoder.lm_head.dense.bias"]))
    fit_norm(out, "encoder.lm_head.layer_norm", values, target)
    out["encoder.lm_head.bias"] = weights["encoder.lm_head.bias"]
    return out


def run(
    weights: dict[str, Tensor], shape: Architecture, tokens: Tensor, kept: list[int]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """What goes on in the teacher.

    Returns:
        the stream before each layer and after the last, after each attention, the activations of each feed-forward
        kept layer, the values that its attention mixed, and what the LM head multiplies with the embedding
    """
    prefix = "encoder.sentence_encoder."

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], shape.layer_norm_eps)

    places = torch.arange(2, 2 + tokens.size(1))
    x = weights[prefix + "embed_tokens.weight"][tokens] + weights[prefix + "embed_positions.weight"][places]
    x = norm(prefix + "layernorm_embedding", x)
    states, middles, inner, attended = [x], [], [], []
    for layer in range(shape.encoder_layers):
        name = f"{prefix}layers.{layer}."
        values = attention(weights, name, x, shape.encoder_attention_heads)
        attended.append(values if layer in kept else values[:0])
        x = norm(name + "self_attn_layer_norm", x + linear(weights, name + "self_attn.out_proj", values))
        middles.append(x)
        values = F.gelu(linear(weights, name + "fc1", x))
        inner.append(values if layer in kept else values[:0])
        x = norm(name + "final_layer_norm", x + linear(weights, name + "fc2", values))
        states.append(x)
    head = norm("encoder.lm_head.layer_norm", F.gelu(linear(weights, "encoder.lm_head.dense", x)))
    return states, middles, inner, attended, head


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A linear layer by name."""
    return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])


def attention(weights: dict[str, Tensor], layer: str, x: Tensor, heads: int) -> Tensor:
    """Attended values, ``(samples, length, heads * head width)``."""
    q, k, v = (
        linear(weights, f"{layer}self_attn.{kind}_proj", x).unflatten(-1, (heads, -1)).transpose(1, 2) for kind in "qkv"
    )
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def with_one(x: Tensor) -> Tensor:
    """With a column of ones for the bias."""
    return torch.cat([x, torch.ones(len(x), 1)], dim=1)


def fit(out: dict[str, Tensor], name: str, x: Tensor, target: Tensor) -> Tensor:
    """A linear layer by ridge regression; returns what it computes."""
    inputs, targets = with_one(x.reshape(-1, x.size(-1))), target.reshape(-1, target.size(-1))
    gram = inputs.T @ inputs
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    matrix = torch.linalg.solve(gram, inputs.T @ targets)
    out[name + ".weight"], out[name + ".bias"] = matrix[:-1].T.contiguous(), matrix[-1].clone()
    return linear(out, name, x)


def fit_norm(out: dict[str, Tensor], name: str, x: Tensor, target: Tensor) -> Tensor:
    """A layer norm by regression per dimension; returns what it computes."""
    z = F.layer_norm(x, x.shape[-1:])
    flat, goal = z.reshape(-1, z.size(-1)), target.reshape(-1, z.size(-1))
    centred = flat - flat.mean(dim=0)
    slope = (centred * goal).mean(dim=0) / centred.square().mean(dim=0).clamp(min=1e-6)
    out[name + ".weight"] = slope
    out[name + ".bias"] = goal.mean(dim=0) - slope * flat.mean(dim=0)
    return F.layer_norm(x, x.shape[-1:], out[name + ".weight"], out[name + ".bias"])


if __name__ == "__main__":
    main()
