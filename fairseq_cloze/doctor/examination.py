"""Examination: is this checkpoint what it says?

The causes are checked first, so that what follows from them can say so: weights, vocabulary, then what a forward pass
and a sample of real blanks show.  How the thresholds were chosen stands in ``docs/decisions.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..data.databin import DataBin
from ..data.store import Store
from ..data.vocabulary import FILES, UNK, Vocabulary
from ..errors import ClozeError
from ..files import PathLike
from ..model.names import ENCODER
from ..ranking.metrics import metrics_of
from ..ranking.ranker import Ranker
from ..ranking.scores import Outcome
from ..statistics import wilson_interval
from ..weights.carried import OtherVocabulary
from ..weights.checkpoint import Checkpoint
from .diagnosis import DOUBT, OK, UNFIT, Check, Diagnosis
from .measures import (
    ENGLISH,
    filled_texts,
    largest_activations,
    masked_lm_losses,
    merge_order,
    number_order,
    pair_similarity,
    related_rows,
    sample_passages,
    shuffled,
    tied_blanks,
)
from .weight_checks import WeightExamination

#: Least share of merges in order of their numbers, and of the dictionary's numbers that the BPE has.
AGREEMENT = 0.9
#: Least rank correlation of BPE number and row; 0.62 in RoBERTa's dictionary, 0 in a shuffled one.
FREQUENCY_ORDER = 0.1
#: Pairs of words that it takes to judge a dictionary.
LEAST_PAIRS = 30
#: Nats between shuffled and real text that a well trained model clearly exceeds.
GOOD_GAIN = 2.5
HALF_LARGEST = 65504.0
BLANKS = 500

_ACCENTS = "The café’s naïve owner asked for €12.50 – “cash only”."


def examine(
    checkpoint: Checkpoint, data_bin: PathLike | None = None, announce: Callable[[Check], Any] = lambda check: None
) -> Diagnosis:
    """Examine a checkpoint.

    Args:
        checkpoint: of a RoBERTa
        data_bin: adds zero-shot accuracy and ties, and is where the text for the masked-LM loss comes from
        announce: called with each check as soon as it is done

    Raises:
        ClozeError: the checkpoint is no RoBERTa, or the data-bin cannot be read
    """
    data = DataBin(data_bin) if data_bin else None
    examination = _Examination(checkpoint, data, announce)
    examination.run()
    return examination.diagnosis


class _Examination(WeightExamination):
    """All checks."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: DataBin | None,
        announce: Callable[[Check], Any],
    ) -> None:
        super().__init__(checkpoint, Diagnosis(checkpoint.name, str(data.folder) if data else None), announce)
        self.data = data
        self.vocabulary: Vocabulary | None = None
        self.ranker: Ranker | None = None
        self.store = self._sample()
        self.texts: Sequence[str] = ENGLISH
        self.source = "built-in English text"
        if data and self.store:
            own = filled_texts(self.store, data.vocabulary, count=4, words=90)
            if own:
                self.texts, self.source = own, f"text of {data.folder}"

    def run(self) -> None:
        super().run()
        self.check_vocabulary()
        self.check_bpe()
        self.check_dictionary()
        self.check_loading()
        self.check_half_precision()
        self.check_masked_lm_loss()
        self.check_scores()

    def _sample(self) -> Store | None:
        """Labelled blanks of the data-bin."""
        for split in ("valid", "test", "train"):
            if self.data and split in self.data.splits:
                store = self.data.open(split)
                if (store.columns["gold"] >= 0).any():
                    return sample_passages(store, BLANKS)
        return None

    # -- vocabulary --------------------------------------------------------------------------------------------------

    def check_vocabulary(self) -> None:
        """There is one vocabulary, of the right size."""
        rows, beside = self.checkpoint.rows, self.checkpoint.path.parent
        advice = f"take {', '.join(FILES)} from where the weights came from"
        try:
            own = self.checkpoint.vocabulary
            found = own or (self.data.vocabulary if self.data else None)
            if found is None:
                return self.skip("vocabulary", f"none in or beside the checkpoint; put {', '.join(FILES)} into "
                                 f"{beside}, or pass DATA-BIN")  # fmt: skip
            if len(found) == rows:
                self.vocabulary = found
            self.checkpoint.check_vocabulary(found, found.origin)
            others = [self.data.vocabulary] if self.data else []
            if own and all((beside / name).is_file() for name in FILES):
                others.append(Vocabulary.load(beside))
            for other in others:
                self.checkpoint.check_vocabulary(other, other.origin)
        except ClozeError as error:
            part = error.part if isinstance(error, OtherVocabulary) else "dictionary"
            fault = f"another {part}"
            return self.add("vocabulary", UNFIT, str(error), fault=fault, advice=advice)
        origin = "the checkpoint's own" if own else f"that of {found.origin}, the checkpoint came without"
        self.add("vocabulary", OK, f"{len(found):,} rows, {origin}", f"{rows:,} rows as embeddings",
                 values={"rows": len(found), "embedding_rows": rows})  # fmt: skip

    def check_bpe(self) -> None:
        """The BPE is whole and in its own order."""
        vocabulary = self.vocabulary
        if vocabulary is None:
            return self.skip("BPE", "no vocabulary that fits")
        advice = f"take {', '.join(FILES[1:])} from where the weights came from"
        probe = [*self.texts, _ACCENTS]
        try:
            encoded = vocabulary.encode(probe)
        except ClozeError as error:
            self.vocabulary = None
            return self.add("BPE", UNFIT, str(error), fault="wrong BPE", advice=advice)
        wrong = sum(vocabulary.decode(row.tolist()) != text for row, text in zip(encoded, probe))
        tokens = np.concatenate(encoded)
        unknown = float((tokens == UNK).mean())
        per_word = len(tokens) / sum(len(text.split()) for text in probe)
        order, (known, _) = merge_order(vocabulary), number_order(vocabulary)
        values = {"failed_round_trips": wrong, "unknown": unknown, "tokens_per_word": per_word,
                  "merges_in_order": order, "dictionary_in_bpe": known}  # fmt: skip
        measured = (
            f"{len(probe) - wrong} of {len(probe)} texts survive the round trip, {per_word:.2f} tokens per word, "
            f"{100 * unknown:.1f}% <unk>, {100 * order:.0f}% of the merges in order, "
            f"{100 * known:.0f}% of the dictionary in the BPE"
        )
        expected = f"all, below 3, 0%, above {100 * AGREEMENT:.0f}%, above {100 * AGREEMENT:.0f}%"
        bad = wrong or unknown > 0.01 or order < AGREEMENT or known < AGREEMENT
        if not bad and per_word < 3 and not unknown:
            return self.add("BPE", OK, measured, expected, values=values)
        self.add("BPE", UNFIT if bad else DOUBT, measured, expected, fault="wrong BPE", advice=advice, values=values)

    def check_dictionary(self) -> None:
        """Rows of the embedding hold the words that the dictionary says."""
        if self.vocabulary is None or not self.finite or not self.embeddings_trained:
            why = "the embeddings are random" if not self.embeddings_trained else "no vocabulary that can be used"
            return self.skip("dictionary", why if self.finite else "weights are NaN or infinite")
        pairs = related_rows(self.vocabulary)
        if len(pairs) < LEAST_PAIRS:
            return self.skip("dictionary", f"only {len(pairs)} pairs like ' the' and ' The', {LEAST_PAIRS} are needed")
        own, other, errors = pair_similarity(self.weights[f"{ENCODER}embed_tokens.weight"], pairs)
        _, order = number_order(self.vocabulary)
        values = {"pairs": len(pairs), "cosine": own, "cosine_others": other, "standard_errors": errors,
                  "frequency_order": order}  # fmt: skip
        measured = (
            f"cosine {own:.2f} of {len(pairs):,} pairs like ' the' and ' The', {other:.2f} of others; "
            f"rows and BPE numbers correlate by {order:.2f}"
        )
        expected = f"clearly closer; above {FREQUENCY_ORDER}"
        if errors >= 5:
            return self.add("dictionary", OK, measured, expected, values=values)
        fault = "shuffled dictionary" if order < FREQUENCY_ORDER else "dictionary or BPE of other weights"
        self.add_symptom("dictionary", DOUBT if errors >= 3 else UNFIT, measured, expected, fault=fault,
                         advice="rows of the embedding hold other words than the dictionary says; take dict.txt from "
                         "where the weights came from", values=values)  # fmt: skip

    # -- forward passes ----------------------------------------------------------------------------------------------

    def check_loading(self) -> None:
        """The weights load by name."""
        if not self.finite or self.vocabulary is None:
            return self.skip(
                "loading", "no vocabulary that can be used" if self.finite else "weights are NaN or infinite"
            )
        try:
            self.ranker = Ranker([self.checkpoint], self.vocabulary, self.vocabulary.origin)
        except (ClozeError, RuntimeError) as error:  # torch names the weights that do not fit
            self.add_symptom("loading", UNFIT, " ".join(str(error).split())[:300], "every weight has its place",
                             fault="weights do not fit the model", advice="convert the checkpoint again")  # fmt: skip
            return
        self.add("loading", OK, "every weight has its place")

    def check_half_precision(self) -> None:
        """Weights and activations stay in the range of fp16."""
        if self.ranker is None or self.vocabulary is None:
            return self.skip("half precision", "the model could not be loaded")
        peaks = {name: float(value.abs().max()) for name, value in self.weights.items() if value.numel()}
        positions = self.checkpoint.architecture.max_positions
        peaks.update(largest_activations(self.ranker.members[0].model, self.vocabulary, self.texts[0], positions))
        name = max(peaks, key=peaks.__getitem__)
        verdict = UNFIT if not peaks[name] <= HALF_LARGEST else DOUBT if peaks[name] > HALF_LARGEST / 4 else OK
        more = {} if verdict == OK else {
            "fault": "fp16 overflow",
            "advice": "half precision turns it into infinity, then NaN; use it without --fp16",
        }  # fmt: skip
        self.add("half precision", verdict, f"largest value {peaks[name]:,.0f}, in {name}",
                 f"below {HALF_LARGEST / 4:,.0f}, infinite from {HALF_LARGEST:,.0f} on",
                 values={"largest": peaks[name], "where": name}, **more)  # fmt: skip

    def check_masked_lm_loss(self) -> None:
        """The model tells text from shuffled words."""
        if self.ranker is None or self.vocabulary is None:
            return self.skip("masked-LM loss", "the model could not be loaded")
        positions = self.checkpoint.architecture.max_positions
        real, mixed = (
            masked_lm_losses(self.ranker.members[0].model, self.vocabulary, texts, positions)
            for texts in (self.texts, shuffled(self.texts))
        )
        blind = math.log(len(self.vocabulary))
        gain = float(mixed.mean() - real.mean())
        error = math.sqrt(float(real.var()) / len(real) + float(mixed.var()) / len(mixed))
        loss = float(real.mean())
        measured = (
            f"{loss:.2f} nats on {len(real)} tokens of {self.source}, {float(mixed.mean()):.2f} with its words shuffled"
        )
        expected = f"at least {GOOD_GAIN} less than shuffled, far below log rows {blind:.2f}"
        values = {"real": loss, "shuffled": float(mixed.mean()), "gain": gain, "error": error, "log_rows": blind}
        if gain > max(3 * error, GOOD_GAIN) and loss < blind:
            return self.add("masked-LM loss", OK, measured, expected, values=values)
        if gain > 3 * error and loss < blind:
            verdict, fault = DOUBT, "weak language model"
            advice = "small, or trained on little text, or layers missing; fine-tuning on candidates weakens it, too"
        else:
            verdict, fault = DOUBT if self.checkpoint.has_ranking_head else UNFIT, "no language model"
            advice = (
                "each part looks trained, yet they do not work together: layers missing or in another order, parts of "
                "two models, or another activation function than configured"
            )
        self.add_symptom("masked-LM loss", verdict, measured, expected, fault=fault, advice=advice, values=values)

    def check_scores(self) -> None:
        """Accuracy above chance, few ties."""
        if self.ranker is None or self.store is None or self.data is None:
            why = "pass DATA-BIN with labelled passages" if self.store is None else "the model could not be loaded"
            self.skip("accuracy", why)
            return self.skip("ties", why)
        own, other = self.ranker.vocabulary, self.data.vocabulary
        if (own.dictionary_digest, own.bpe_digest) != (other.dictionary_digest, other.bpe_digest):
            self.skip("accuracy", "DATA-BIN has another vocabulary")
            return self.skip("ties", "DATA-BIN has another vocabulary")
        try:
            scores = self.ranker.score(self.store)
        except ClozeError as error:
            self.add_symptom(
                "accuracy", UNFIT, str(error), fault="NaN scores", advice="fp16 overflow or damaged weights"
            )
            return self.skip("ties", "there are no scores")
        found = Outcome(scores, self.store)
        blanks, hits = found.counts["n_blanks"], found.counts["n_correct"]
        low, high = (100 * bound for bound in wilson_interval(hits, blanks))
        gold = self.store.columns["gold"]
        majority = 100 * int(np.bincount(gold[gold >= 0]).max()) / blanks
        metrics = metrics_of(found.counts)
        accuracy, chance = metrics["accuracy"], metrics["chance"]
        values = {"blanks": blanks, "accuracy": accuracy, "low": low, "high": high, "chance": chance,
                  "majority": majority}  # fmt: skip
        measured = f"{accuracy:.1f}% of {blanks} blanks, 95% interval {low:.1f} to {high:.1f}%"
        expected = f"the interval above chance {chance:.1f}% and majority {majority:.1f}%"
        verdict = OK if low > max(chance, majority) else UNFIT if low <= chance and blanks >= 100 else DOUBT
        more = {} if verdict == OK else {
            "fault": "accuracy at chance" if low <= chance else "accuracy at majority",
            "advice": "see docs/chance.md" if blanks >= 100 else "few blanks: pass a larger DATA-BIN",
        }  # fmt: skip
        self.add_symptom("accuracy", verdict, measured, expected, values=values, **more)
        tied = tied_blanks(found.probabilities, self.store)
        share = tied / self.store.blanks
        verdict = OK if share <= 0.01 else DOUBT if share <= 0.05 else UNFIT
        more = {} if verdict == OK else {
            "fault": "tied scores",
            "advice": "the model tells candidates not apart: constant output, or rounded scores",
        }  # fmt: skip
        self.add_symptom("ties", verdict, f"{tied} of {self.store.blanks} blanks have two best candidates",
                         "at most 1%", values={"tied": tied, "blanks": self.store.blanks}, **more)  # fmt: skip
