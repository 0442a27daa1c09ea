"""A checkpoint of masked_words as a small folder of weights: float16, without optimiser state, with its vocabulary.

python finish.py CHECKPOINT DATA --out DIR

DATA is the folder that binarize.py wrote.  Positions that no sample was long enough to train are left out; longer
passages then become windows.  The weights carry that they are scored without contrast: words that are common anywhere
were masked less often, so the model does not prefer them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from fairseq_cloze.data.vocabulary import PAD, Vocabulary
from fairseq_cloze.views.settings import Settings
from fairseq_cloze.weights.carried import MODEL_FILE, pretrained_state, save_state
from fairseq_cloze.weights.checkpoint import Checkpoint


def main() -> None:
    """Write ``model.pt`` and the vocabulary's files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    checkpoint = Checkpoint.read(options.checkpoint)
    architecture = checkpoint.architecture
    weights = {
        name: value.half() if value.dtype == torch.float32 and value.dim() else value
        for name, value in checkpoint.weights.items()
    }
    if not architecture.untie_weights_roberta:
        weights["encoder.lm_head.weight"] = weights["encoder.sentence_encoder.embed_tokens.weight"]  # stored once
    positions = min(checkpoint.task_options["tokens_per_sample"], architecture.max_positions)
    architecture = replace(architecture, max_positions=positions)
    table = "encoder.sentence_encoder.embed_positions.weight"
    weights[table] = weights[table][: positions + PAD + 1].clone()
    vocabulary = Vocabulary.load(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    vocabulary.save(options.out)
    state = pretrained_state(weights, architecture, vocabulary, settings=Settings(contrast=0.0))
    save_state(state, options.out / MODEL_FILE)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"wrote {options.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
