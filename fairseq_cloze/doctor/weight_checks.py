"""Checks of the weights alone.

How the thresholds were chosen stands in ``docs/decisions.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from ..model.names import ENCODER, LM_HEAD
from ..weights.checkpoint import Checkpoint
from .diagnosis import DOUBT, OK, SKIPPED, UNFIT, Check, Diagnosis
from .measures import spectral_ratio

#: Spectral ratio up to which weights are taken for random: 1 in theory, up to 1.1 for matrices of 48 x 48.
RANDOM = 1.15


class WeightExamination:
    """Checks of the weights alone; each adds one :class:`Check` and leaves behind what later ones need.

    Args:
        checkpoint: what to examine
        diagnosis: where the checks go
        announce: called with each
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        diagnosis: Diagnosis,
        announce: Callable[[Check], Any],
    ) -> None:
        self.checkpoint, self.weights = checkpoint, checkpoint.weights
        self.diagnosis, self.announce = diagnosis, announce
        self.finite = True
        self.embeddings_trained = True

    def run(self) -> None:
        """Make the checks in order."""
        self.check_numbers()
        self.check_layers()
        if self.finite:
            self.check_encoder()
            self.check_embeddings()
            self.check_lm_head()
        else:
            for name in ("encoder", "embeddings", "LM head"):
                self.skip(name, "weights are NaN or infinite")
        self.check_tied_weights()

    # -- results -----------------------------------------------------------------------------------------------------

    def add(self, name: str, verdict: str, measured: str, expected: str = "", **more: Any) -> None:
        """Record a check."""
        check = Check(name, verdict, measured, expected, **more)
        self.diagnosis.checks.append(check)
        self.announce(check)

    def add_symptom(self, name: str, verdict: str, measured: str, expected: str = "", **more: Any) -> None:
        """As :meth:`add`, for what may follow from a fault that was found before."""
        causes = self.diagnosis.faults(UNFIT)
        if verdict in (UNFIT, DOUBT) and causes:
            more.update(fault="", advice=f"follows from {', '.join(causes)}")
        self.add(name, verdict, measured, expected, **more)

    def skip(self, name: str, why: str) -> None:
        """Record that a check could not be made."""
        self.add(name, SKIPPED, why)

    # -- weights -----------------------------------------------------------------------------------------------------

    def check_numbers(self) -> None:
        """Every weight is a number."""
        suspects = {
            name: value
            for name, value in self.weights.items()
            if value.numel() and not value.float().abs().max().isfinite()
        }
        bad = {name: int((~value.isfinite()).sum()) for name, value in suspects.items()}
        self.finite = not bad
        if self.finite:
            self.add("numbers", OK, f"no NaN or infinity in {len(self.weights)} tensors", values={"bad": 0})
            return
        count = sum(bad.values())
        self.add(
            "numbers", UNFIT, f"{count:,} weights are NaN or infinite, first in {next(iter(bad))}", "none",
            fault="NaN or infinite weights (fp16 overflow?)",
            advice="half precision or far too high a learning rate; take an earlier checkpoint, train without --fp16",
            values={"bad": count},
        )  # fmt: skip

    def check_layers(self) -> None:
        """As many layers as configured, without gaps, all of one shape."""
        shapes: dict[int, dict[str, Any]] = {}
        for name, value in self.weights.items():
            match = re.match(rf"{re.escape(ENCODER)}layers\.(\d+)\.(.+)", name)
            if match:
                shapes.setdefault(int(match[1]), {})[match[2]] = tuple(value.shape)
        found = sorted(shapes)
        option = self.checkpoint.option("encoder_layers")
        wanted = int(option) if option is not None else len(found)
        values = {"layers": found, "configured": option}
        expected = f"{wanted} as configured" if option is not None else "numbers without gaps"
        whole = all(shapes[layer] == shapes[found[0]] for layer in found)
        numbers = ", ".join(map(str, found))
        if found and found == list(range(wanted)) and whole:
            self.add("layers", OK, f"{len(found)} layers", expected, values=values)
            return
        if not whole:
            odd = next(layer for layer in found if shapes[layer] != shapes[found[0]])
            fault, advice = f"layer {odd} differs", "its weights have other names or shapes than the first layer's"
        else:
            fault, advice = "layers missing", "the file was cut down or converted in part"
            if option is not None and len(found) > wanted:
                fault, advice = "more layers than configured", "weights and configuration are of two models"
        self.add("layers", UNFIT, f"{len(found)} layers, numbers {numbers or 'none'}", expected, fault=fault,
                 advice=f"{advice}; take the original file", values=values)  # fmt: skip

    def check_encoder(self) -> None:
        """No layer is as it was initialised."""
        ratios: dict[int, float] = {}
        for name, value in self.weights.items():
            match = re.match(rf"{re.escape(ENCODER)}layers\.(\d+)\..*weight$", name)
            if match and value.dim() == 2:
                layer = int(match[1])
                ratios[layer] = max(ratios.get(layer, 0.0), spectral_ratio(value))
        random = [layer for layer, ratio in sorted(ratios.items()) if ratio <= RANDOM]
        measured = f"spectral ratio of the layers {min(ratios.values(), default=0):.2f} to "
        measured += f"{max(ratios.values(), default=0):.2f}"
        values = {"spectral_ratios": [round(ratio, 4) for _, ratio in sorted(ratios.items())]}
        expected = f"above {RANDOM}, random weights have 1"
        if not random:
            return self.add("encoder", OK, measured, expected, values=values)
        every = len(random) == len(ratios)
        self.add(
            "encoder", UNFIT, measured + self._untouched(f"{ENCODER}layers."), expected,
            fault="random encoder" if every else f"random layers {', '.join(map(str, random))}",
            advice="these weights were never trained or never loaded; start again from the pretrained checkpoint with "
            "--finetune-from-model",
            values=values,
        )  # fmt: skip

    def _untouched(self, prefix: str) -> str:
        """Further evidence for an initial distribution: its constants."""
        vectors = [
            (name, value) for name, value in self.weights.items() if name.startswith(prefix) and value.dim() == 1
        ]
        constant = all((value == (1.0 if name.endswith("norm.weight") else 0.0)).all() for name, value in vectors)
        return ", biases 0 and norms 1 as initialised" if vectors and constant else ""

    def check_embeddings(self) -> None:
        """The embeddings are not as they were initialised."""
        tokens = spectral_ratio(self.weights[f"{ENCODER}embed_tokens.weight"][:8192])
        self.embeddings_trained = tokens > RANDOM
        verdict = (
            {}
            if self.embeddings_trained
            else {
                "fault": "random embeddings",
                "advice": "never trained or never loaded; start again from the pretrained checkpoint",
            }
        )
        self.add("embeddings", OK if self.embeddings_trained else UNFIT, f"spectral ratio {tokens:.2f}",
                 f"above {RANDOM}", values={"spectral_ratio": tokens}, **verdict)  # fmt: skip

    def check_lm_head(self) -> None:
        """The LM head is not as it was initialised."""
        ratio = spectral_ratio(self.weights[f"{LM_HEAD}dense.weight"])
        measured, expected, values = f"spectral ratio {ratio:.2f}", f"above {RANDOM}", {"spectral_ratio": ratio}
        if ratio > RANDOM:
            return self.add("LM head", OK, measured, expected, values=values)
        advice = "never trained or never loaded, many conversions leave it out; convert the masked-LM model again"
        verdict = UNFIT
        if self.checkpoint.has_ranking_head:
            verdict, advice = DOUBT, f"{advice}; the ranking head does without it"
        self.add("LM head", verdict, measured + self._untouched(LM_HEAD + "dense."), expected,
                 fault="random LM head", advice=advice, values=values)  # fmt: skip

    def check_tied_weights(self) -> None:
        """LM head and embeddings are the same where they are configured to be."""
        embedding = self.weights[f"{ENCODER}embed_tokens.weight"]
        head = self.weights.get(f"{LM_HEAD}weight")
        if self.checkpoint.option("untie_weights_roberta"):
            return self.add("tied weights", OK, "configured as not tied", values={"tied": None})
        same = head is not None and (
            torch.equal(embedding, head) or torch.equal(*map(torch.nan_to_num, (embedding, head)))
        )
        if same:
            return self.add("tied weights", OK, "LM head and embeddings are the same", values={"tied": True})
        measured = f"the checkpoint has no {LM_HEAD}weight"
        if head is not None:
            measured = f"shapes {tuple(head.shape)} and {tuple(embedding.shape)}"
            if head.shape == embedding.shape:
                rows = int((head.nan_to_num() != embedding.nan_to_num()).any(dim=1).sum())
                measured = f"LM head and embeddings differ in {rows:,} of {len(head):,} rows"
        self.add("tied weights", UNFIT, measured, "the same, as configured", fault="untied weights",
                 advice="loading keeps one of the two; find out which is right, copy it over the other",
                 values={"tied": False})  # fmt: skip
