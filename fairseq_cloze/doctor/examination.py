"""Examination: is this checkpoint what it says?

Causes come first, so that what follows from them can say so.  ``docs/decisions.md`` has the reasons of the thresholds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data.databin import DataBin
from ..data.fairseq_files import FAIRSEQ_FILES
from ..data.store import Store
from ..data.tokenizer_file import BYTES
from ..data.vocabulary import PAD, UNK, Vocabulary
from ..errors import ClozeError
from ..files import PathLike
from ..model.architecture import FIRST_POSITION
from ..model.names import ENCODER, LM_HEAD
from ..ranking.metrics import metrics_of
from ..ranking.ranker import Ranker
from ..ranking.scores import Outcome
from ..statistics import wilson_interval
from ..weights.carried import OtherVocabulary
from ..weights.checkpoint import LAYER, Checkpoint, unusable
from ..weights.families import FAMILIES
from ..weights.plain import show
from . import measures
from .diagnosis import DOUBT, OK, SKIPPED, UNFIT, Check, Diagnosis
from .measures import spectral_ratio
from .texts import ENGLISH, texts_for
from .trials import Trial, better, trials

#: Spectral ratio up to which weights are taken for random: 1 in theory, up to 1.1 for matrices of 48 x 48.
RANDOM = 1.15
#: Least share of merges of what earlier ones made, and of the rows whose tokens the merges make.
AGREEMENT = 0.9
#: Largest share of unknown tokens of a byte-level BPE; others may have more.
UNKNOWN = 0.01
#: Bytes that say as much as a word, in scripts without spaces.
_WORD = 8
#: Largest share of the rows that are predicted less than pad or mask; 0.1 of sound weights, 0.98 of a common word.
PREDICTED = 0.8
#: Nats by which another arrangement has to do better.
BETTER = 0.2
#: Least rank correlation of rows and the tokenizer's own order; 0.62 in RoBERTa's dictionary, 0 in a shuffled one.
FREQUENCY_ORDER = 0.1
#: Pairs of words that it takes to judge a dictionary.
LEAST_PAIRS = 30
#: Nats between shuffled and real text that a well trained model clearly exceeds.
GOOD_GAIN = 2.5
HALF_LARGEST = 65504.0
BLANKS = 500

_ACCENTS = "The café’s naïve owner asked for €12.50 – “cash only”."
T = TypeVar("T")


def examine(
    checkpoint: Checkpoint, data_bin: PathLike | None = None, announce: Callable[[Check], Any] = lambda check: None
) -> Diagnosis:
    """Examine a checkpoint.

    Args:
        checkpoint: of a masked LM
        data_bin: adds zero-shot accuracy and ties, and is where the text for the masked-LM loss comes from
        announce: called with each check as soon as it is done

    Raises:
        ClozeError: the checkpoint is no masked LM, or the data-bin cannot be read
    """
    examination = _Examination(checkpoint, DataBin(data_bin) if data_bin else None, announce)
    examination.run()
    return examination.diagnosis


class _Examination:
    """Each check adds one :class:`Check` and leaves behind what later ones need."""

    def __init__(self, checkpoint: Checkpoint, data: DataBin | None, announce: Callable[[Check], Any]) -> None:
        self.checkpoint, self.weights, self.data, self.announce = checkpoint, checkpoint.weights, data, announce
        self.diagnosis = Diagnosis(checkpoint.name, str(data.folder) if data else None)
        self.embedding = self.weights[f"{ENCODER}embed_tokens.weight"]
        self.layers: dict[int, dict[str, Tensor]] = {}
        for name, value in self.weights.items():
            match = LAYER.match(name)
            if match:
                self.layers.setdefault(int(match[1]), {})[match[2]] = value
        self.usable = self.embeddings_trained = self.lm_head_trained = True
        self.vocabulary: Vocabulary | None = None
        self.ranker: Ranker | None = None
        self.store = self._sample()
        self.texts: Sequence[str] = ENGLISH
        self.source = ""
        if data and self.store:
            own = measures.filled_texts(self.store, data.vocabulary, count=4, words=90)
            if own:
                self.texts, self.source = own, f"text of {data.folder}"

    def _sample(self) -> Store | None:
        """Labelled blanks of the data-bin."""
        for split in ("valid", "test", "train"):
            if self.data and split in self.data.splits:
                store = self.data.open(split)
                if (store.columns["gold"] >= 0).any():
                    return measures.sample_passages(store, BLANKS)
        return None

    def run(self) -> None:
        """Make the checks in order."""
        self.check_numbers()
        self.check_architecture()
        self.check_layers()
        no_numbers = "" if self.usable else "weights are no numbers"
        self.check_unless(no_numbers, self.check_encoder, "encoder")
        self.check_unless(no_numbers, self.check_embeddings, "embeddings")
        self.check_unless(no_numbers, self.check_lm_head, "LM head")
        self.check_tied_weights()
        random = no_numbers or ("" if self.embeddings_trained else "the embeddings are random")
        self.check_unless(random, self.check_positions, "positions")
        self.check_vocabulary()
        no_vocabulary = "" if self.vocabulary else "no vocabulary that fits"
        self.check_unless(no_vocabulary, self.check_tokenizer, "tokenizer")
        self.check_unless("" if self.vocabulary else "no vocabulary that can be used", self.check_casing, "casing")
        no_model = no_numbers or ("" if self.vocabulary else "no vocabulary that can be used")
        self.check_unless(random or no_model, self.check_rows, "rows")
        self.check_unless(no_model, self.check_loading, "loading")
        not_loaded = "" if self.ranker else "the model could not be loaded"
        self.check_unless(not_loaded, self.check_half_precision, "half precision")
        causes = self.diagnosis.faults(UNFIT)
        if not self.lm_head_trained and not causes:  # a doubt alone, but nothing is known from what a random one says
            causes = ["random LM head"]
        no_trials = not_loaded or (f"{', '.join(causes)} comes first" if causes else "")
        self.check_unless(no_trials, self.check_arrangement, "arrangement")
        self.check_unless(no_trials, self.check_special_rows, "special rows")
        self.check_unless(not_loaded, self.check_masked_lm_loss, "masked-LM loss")
        unscored = not_loaded if self.store else "pass DATA-BIN with labelled passages"
        if not unscored and self.ranker and self.data:
            digests = [v.digests for v in (self.ranker.vocabulary, self.data.vocabulary)]
            unscored = "" if digests[0] == digests[1] else "DATA-BIN has another vocabulary"
        self.check_unless(unscored, self.check_scores, "accuracy", "ties")

    def check_unless(self, obstacle: str, check: Callable[[], None], *names: str) -> None:
        """Make a check, or record under its names what stands in its way."""
        if not obstacle:
            return check()
        for name in names:
            self.add(name, SKIPPED, obstacle)

    def add(
        self, name: str, verdict: str, measured: str, expected: str = "", values: dict[str, Any] | None = None,
        fault: str = "", advice: str = "", symptom: bool = False,
    ) -> None:  # fmt: skip
        """Record a check; fault and advice only where something is wrong, a symptom's only where nothing else was."""
        causes = self.diagnosis.faults(UNFIT) if symptom else []
        if verdict in (OK, SKIPPED):
            fault = advice = ""
        elif causes:
            fault, advice = "", f"follows from {', '.join(causes)}"
        check = Check(name, verdict, measured, expected, fault, advice, values or {})
        self.diagnosis.checks.append(check)
        self.announce(check)

    # -- weights -----------------------------------------------------------------------------------------------------

    def check_numbers(self) -> None:
        count, found = unusable(self.weights)
        self.usable = not count
        if self.usable:
            return self.add("numbers", OK, f"all are numbers in {len(self.weights)} tensors", values={"bad": 0})
        self.add(
            "numbers", UNFIT, found, "none", {"bad": count}, "weights are no numbers (fp16 overflow?)",
            "half precision or far too high a learning rate; take an earlier checkpoint, train without --fp16",
        )  # fmt: skip

    def check_architecture(self) -> None:
        """The parts that the family has."""
        blame = ("wrong architecture", "configuration and weights are of two models; convert the original again")
        try:
            architecture = self.checkpoint.architecture
        except ClozeError as error:
            return self.add("architecture", UNFIT, str(error), "", {}, *blame)
        family = FAMILIES.get(architecture.family)
        if family is None:
            known = f"one of {', '.join(FAMILIES)}"
            return self.add("architecture", DOUBT, f"family {show(architecture.family)}", known, {}, *blame)
        odd = family.difference(architecture)
        measured = f"{odd}, which {family.name} has not" if odd else f"that of {family.name}"
        verdict = OK if not odd else DOUBT if odd.startswith("activation_fn") else UNFIT
        self.add("architecture", verdict, measured, "", {"family": architecture.family, "odd": odd}, *blame)

    def check_layers(self) -> None:
        """As many layers as configured, without gaps, all of one shape."""
        found, option = sorted(self.layers), self.checkpoint.option("encoder_layers")
        if self.checkpoint.option("shared_layers") is True and option is not None:
            option = 1  # computed again and again
        configured = option if type(option) is int else None
        shapes = {number: {n: value.shape for n, value in layer.items()} for number, layer in self.layers.items()}
        odd = next((number for number in found if shapes[number] != shapes[found[0]]), None)
        fault, advice = "layers missing", "the file was cut down or converted in part"
        if odd is not None:
            fault, advice = f"layer {odd} differs", "its weights have other names or shapes than the first layer's"
        elif configured is not None and len(found) > configured:
            fault, advice = "more layers than configured", "weights and configuration are of two models"
        sound = found and found == list(range(len(found))) and option in (None, len(found)) and odd is None
        numbers = "" if sound else f", numbers {', '.join(map(str, found)) or 'none'}"
        expected = f"{show(option)} as configured" if option is not None else "numbers without gaps"
        self.add("layers", OK if sound else UNFIT, f"{len(found)} layers{numbers}", expected,
                 {"layers": found, "configured": configured}, fault, f"{advice}; take the original file")  # fmt: skip

    def check_encoder(self) -> None:
        ratios: dict[int, float] = {}
        for number, layer in sorted(self.layers.items()):
            matrices = [v for name, v in layer.items() if name.endswith("weight") and v.dim() == 2]
            if matrices:
                ratios[number] = max(map(spectral_ratio, matrices))
        random = [number for number, ratio in ratios.items() if ratio <= RANDOM]
        low, high = min(ratios.values(), default=0), max(ratios.values(), default=0)
        untouched = self._untouched(f"{ENCODER}layers.") if random else ""
        self.add(
            "encoder", UNFIT if random else OK, f"spectral ratio of the layers {low:.2f} to {high:.2f}{untouched}",
            f"above {RANDOM}, random weights have 1",
            {"spectral_ratios": [round(ratio, 4) for ratio in ratios.values()]},
            fault="random encoder" if len(random) == len(ratios) else f"random layers {', '.join(map(str, random))}",
            advice="these weights were never trained or never loaded; start again from the pretrained checkpoint with "
            "--finetune-from-model",
        )  # fmt: skip

    def _untouched(self, prefix: str) -> str:
        """Further evidence for an initial distribution: its constants."""
        vectors = {name: v for name, v in self.weights.items() if name.startswith(prefix) and v.dim() == 1}
        constant = all((v == float(name.endswith("norm.weight"))).all() for name, v in vectors.items())
        return ", biases 0 and norms 1 as initialised" if vectors and constant else ""

    def check_embeddings(self) -> None:
        ratio = spectral_ratio(self.embedding[:8192])
        self.embeddings_trained = ratio > RANDOM
        self.add("embeddings", OK if ratio > RANDOM else UNFIT, f"spectral ratio {ratio:.2f}", f"above {RANDOM}",
                 {"spectral_ratio": ratio}, "random embeddings",
                 "never trained or never loaded; start again from the pretrained checkpoint")  # fmt: skip

    def check_lm_head(self) -> None:
        ratio = spectral_ratio(self.weights[f"{LM_HEAD}dense.weight"])
        self.lm_head_trained = ratio > RANDOM
        verdict, measured = OK, f"spectral ratio {ratio:.2f}"
        advice = "never trained or never loaded, many conversions leave it out; convert the masked-LM model again"
        if ratio <= RANDOM:
            verdict, measured = UNFIT, measured + self._untouched(f"{LM_HEAD}dense.")
            if self.checkpoint.has_ranking_head:
                verdict, advice = DOUBT, f"{advice}; the ranking head does without it"
        self.add("LM head", verdict, measured, f"above {RANDOM}", {"spectral_ratio": ratio}, "random LM head", advice)

    def check_tied_weights(self) -> None:
        """LM head and embeddings are the same where they are configured to be."""
        if self.checkpoint.option("untie_weights_roberta"):
            return self.add("tied weights", OK, "configured as not tied", values={"tied": None})
        head = self.weights.get(f"{LM_HEAD}weight")
        if head is None:
            measured = f"the checkpoint has no {LM_HEAD}weight"
        elif head.shape != self.embedding.shape:
            measured = f"shapes {tuple(head.shape)} and {tuple(self.embedding.shape)}"
        else:
            same = torch.equal(head, self.embedding)
            rows = 0 if same else int((head.nan_to_num() != self.embedding.nan_to_num()).any(dim=1).sum())
            if not rows:
                return self.add("tied weights", OK, "LM head and embeddings are the same", values={"tied": True})
            measured = f"LM head and embeddings differ in {rows:,} of {len(head):,} rows"
        self.add("tied weights", UNFIT, measured, "the same, as configured", {"tied": False}, "untied weights",
                 "loading keeps one of the two; find out which is right, copy it over the other")  # fmt: skip

    def check_positions(self) -> None:
        """The begin token has the first of the positions."""
        positions = self.weights.get(f"{ENCODER}embed_positions.weight")
        if positions is None:
            return self.add("positions", SKIPPED, "positions are turns, not weights")
        found, first = measures.first_place(positions), FIRST_POSITION
        if found is None:
            return self.add("positions", SKIPPED, "vectors of neighbours are not alike, so none stands out")
        verdict = OK if found == first else DOUBT if found == first - 1 else UNFIT
        self.add("positions", verdict, f"row {found} is the last before those that are alike", f"row {first}",
                 {"row": found}, "positions shifted", "the first text position has another row: two rows stand before "
                 "it here and in RoBERTa, none in BERT; convert the original again")  # fmt: skip

    # -- vocabulary --------------------------------------------------------------------------------------------------

    def check_vocabulary(self) -> None:
        """There is one vocabulary, of the right size."""
        rows, beside, files = self.checkpoint.rows, self.checkpoint.path.parent, ", ".join(FAIRSEQ_FILES)
        others = [self.data.vocabulary] if self.data else []
        try:
            own = self.checkpoint.vocabulary
            if own is None and not others:
                why = f"none in or beside the checkpoint; put {files} into {beside}, or pass DATA-BIN"
                return self.add("vocabulary", SKIPPED, why)
            found = own or others[0]
            if len(found) == rows:
                self.vocabulary = found
            self.checkpoint.check_vocabulary(found, found.origin)
            if own and Vocabulary.lies_in(beside):
                others.append(Vocabulary.load(beside))
            for other in others:
                self.checkpoint.check_vocabulary(other, other.origin)
        except ClozeError as error:
            fault = f"another {error.part}" if isinstance(error, OtherVocabulary) else "wrong tokenizer"
            return self.add("vocabulary", UNFIT, str(error), fault=fault,
                            advice="take the tokenizer files from where the weights came from")  # fmt: skip
        origin = "the checkpoint's own" if own else f"that of {found.origin}, the checkpoint came without"
        self.add("vocabulary", OK, f"{len(found):,} rows, {origin}", f"{rows:,} rows as embeddings",
                 {"rows": len(found), "embedding_rows": rows})  # fmt: skip

    def check_tokenizer(self) -> None:
        """The tokenizer cuts text as it should; a BPE is in its own order."""
        vocabulary = _there(self.vocabulary)
        blame = ("wrong tokenizer", "take its files from where the weights came from")
        try:
            if not self.source:
                language, self.texts = texts_for(vocabulary)
                self.source = f"built-in {language} text"
            probe = [*self.texts, _ACCENTS]
            encoded = vocabulary.encode(probe)
        except ClozeError as error:
            self.vocabulary = None
            return self.add("tokenizer", UNFIT, str(error), "", {}, *blame)
        wrong = sum(not measures.survives(vocabulary, text, row) for row, text in zip(encoded, probe))
        tokens = np.concatenate(encoded if vocabulary.file.kind == BYTES else encoded[:-1])
        unknown = float((tokens == UNK).mean())
        words = sum(max(len(text.split()), len(text.encode()) / _WORD) for text in self.texts)
        per_word = sum(map(len, encoded[:-1])) / words
        order, known = measures.merge_order(vocabulary), measures.known_share(vocabulary)
        values = {"kind": vocabulary.file.kind, "failed_round_trips": wrong, "unknown": unknown,
                  "tokens_per_word": per_word, "merges_in_order": order, "dictionary_known": known}  # fmt: skip
        measured = (
            f"{vocabulary.file.kind}, {len(probe) - wrong} of {len(probe)} texts survive the round trip, "
            f"{per_word:.2f} tokens per word, {100 * unknown:.1f}% unknown"
        )
        few = UNKNOWN if vocabulary.file.kind == BYTES else 5 * UNKNOWN  # most characters have a token there, not all
        expected = f"all, below 3, at most {100 * (few - UNKNOWN):.0f}%"
        if vocabulary.merges:
            share = f"above {100 * AGREEMENT:.0f}%"
            measured += f", {100 * order:.0f}% of the merges in order, {100 * known:.0f}% of the dictionary known to it"
            expected += f", {share}, {share}"
        bad = wrong or unknown > few or order < AGREEMENT or known < AGREEMENT
        verdict = UNFIT if bad else OK if per_word < 3 and unknown <= few - UNKNOWN else DOUBT
        self.add("tokenizer", verdict, measured, expected, values, *blame)

    def check_casing(self) -> None:
        """Capitals in the vocabulary and in what the tokenizer makes of a text go together."""
        vocabulary = _there(self.vocabulary)
        cased, keeps = measures.is_cased(vocabulary), measures.keeps_case(vocabulary)
        rows, does = "has capitals" if cased else "has no capitals", "keeps them" if keeps else "makes small letters"
        fault = f"{'cased' if cased else 'uncased'} weights with {'a cased' if keeps else 'an uncased'} tokenizer"
        # A byte-level BPE has all capitals as bytes, and other scripts have none.
        wrong = cased != keeps and (cased or vocabulary.file.kind != BYTES)
        verdict = OK if not wrong else UNFIT if cased or measures.has_small_letters(vocabulary) else OK
        self.add("casing", verdict, f"the vocabulary {rows}, the tokenizer {does}", "",
                 {"cased": cased, "keeps_case": keeps}, fault, "words with capitals become other tokens than in "
                 "pretraining; take all tokenizer files from where the weights came from")  # fmt: skip

    def check_rows(self) -> None:
        """Rows of the embedding hold the words that the vocabulary says."""
        vocabulary = _there(self.vocabulary)
        pairs = measures.related_rows(vocabulary)
        if len(pairs) < LEAST_PAIRS:
            few = f"only {len(pairs)} pairs like ' the' and ' The', {LEAST_PAIRS} are needed"
            return self.add("rows", SKIPPED, few)
        own, other, errors = measures.pair_similarity(self.embedding, pairs)
        order = measures.number_order(vocabulary)
        values = {"pairs": len(pairs), "cosine": own, "cosine_others": other, "standard_errors": errors,
                  "frequency_order": order}  # fmt: skip
        first, second = (vocabulary.decode([row]) for row in pairs[0])
        measured = f"cosine {own:.2f} of {len(pairs):,} pairs like '{first}' and '{second}', {other:.2f} of others"
        expected = "clearly closer"
        if not math.isnan(order):
            measured += f"; rows and the tokenizer's order correlate by {order:.2f}"
            expected += f"; above {FREQUENCY_ORDER}"
        fault = "shuffled rows" if order < FREQUENCY_ORDER else "rows of other weights"
        advice = "rows of the embedding hold other words than the vocabulary says; take its files, with fairseq all "
        self.add("rows", OK if errors >= 5 else DOUBT if errors >= 3 else UNFIT, measured, expected, values, fault,
                 f"{advice}three, from where the weights came from", symptom=True)  # fmt: skip

    # -- forward passes ----------------------------------------------------------------------------------------------

    def check_loading(self) -> None:
        vocabulary, problem = _there(self.vocabulary), ""
        try:
            self.ranker = Ranker([self.checkpoint], vocabulary, vocabulary.origin)
        except (ClozeError, RuntimeError) as error:  # torch names the weights that do not fit
            problem = " ".join(str(error).split())[:300]
        place = "every weight has its place"
        self.add("loading", UNFIT if problem else OK, problem or place, place if problem else "",
                 fault="weights do not fit the model", advice="convert the checkpoint again", symptom=True)  # fmt: skip

    def check_half_precision(self) -> None:
        ranker = _there(self.ranker)
        peaks = {name: float(value.abs().max()) for name, value in self.weights.items() if value.numel()}
        positions = self.checkpoint.architecture.max_positions
        model = ranker.members[0].model
        peaks.update(measures.largest_activations(model, ranker.vocabulary, self.texts[0], positions))
        name = max(peaks, key=peaks.__getitem__)
        verdict = UNFIT if not peaks[name] <= HALF_LARGEST else DOUBT if peaks[name] > HALF_LARGEST / 4 else OK
        self.add("half precision", verdict, f"largest value {peaks[name]:,.0f}, in {name}",
                 f"below {HALF_LARGEST / 4:,.0f}, infinite from {HALF_LARGEST:,.0f} on",
                 {"largest": peaks[name], "where": name}, "fp16 overflow",
                 "half precision turns it into infinity, then NaN; use it without --fp16")  # fmt: skip

    def check_special_rows(self) -> None:
        """What no text has is not predicted."""
        ranker, positions = _there(self.ranker), self.checkpoint.architecture.max_positions
        model, vocabulary = ranker.members[0].model, ranker.vocabulary
        rows = (PAD, vocabulary.mask)
        shares = dict(zip(("pad", "mask"), measures.surpassed(model, vocabulary, self.texts[:1], positions, rows)))
        worst = max(shares, key=shares.__getitem__)
        listed = ", ".join(f"{role} more than {100 * share:.0f}% of the rows" for role, share in shares.items())
        verdict = OK if shares[worst] <= PREDICTED else UNFIT
        self.add("special rows", verdict, f"predicted: {listed}", f"at most {100 * PREDICTED:.0f}%", {**shares},
                 f"wrong {worst} row", "it is the row of a word; take the tokenizer files from where the weights came "
                 "from", symptom=True)  # fmt: skip

    def check_arrangement(self) -> None:
        """No other arrangement of the same parts does better."""
        ranker, positions = _there(self.ranker), self.checkpoint.architecture.max_positions
        model = ranker.members[0].model

        def losses(texts: Sequence[str]) -> Tensor:
            return measures.masked_lm_losses(model, ranker.vocabulary, texts, positions)

        def gain(trial: Trial, texts: Sequence[str], before: Tensor) -> tuple[float, float]:
            with trial.arranged():
                return better(before, losses(texts))

        begun = [measures.beginning(self.texts[0])]
        before, others = losses(begun), trials(model, ranker.vocabulary)
        best = max(others, key=lambda trial: gain(trial, begun, before)[0])
        nats, errors = gain(best, self.texts, losses(self.texts))
        found = nats > BETTER and errors > 5
        measured = f"none of {len(others)} others of layers, heads, activation and special rows does better"
        if found:
            measured = f"with {best.what} the masked-LM loss is {nats:.2f} nats lower"
        self.add("arrangement", UNFIT if found else OK, measured, "none that does better" if found else "",
                 {"tried": len(others), "best": best.what, "gain": nats, "errors": errors}, best.fault,
                 "the same weights do better so; convert the original again")  # fmt: skip

    def check_masked_lm_loss(self) -> None:
        ranker = _there(self.ranker)
        positions = self.checkpoint.architecture.max_positions
        real, mixed = (
            measures.masked_lm_losses(ranker.members[0].model, ranker.vocabulary, texts, positions)
            for texts in (self.texts, measures.shuffled(self.texts))
        )
        loss, other, blind = float(real.mean()), float(mixed.mean()), math.log(len(ranker.vocabulary))
        gain = float(mixed.mean() - real.mean())
        error = math.sqrt(float(real.var()) / len(real) + float(mixed.var()) / len(mixed))
        verdict, fault = DOUBT if self.checkpoint.has_ranking_head else UNFIT, "no language model"
        advice = (
            "each part looks trained, yet they do not work together: layers missing or in another order, parts of "
            "two models, or another activation function than configured"
        )
        if gain > 3 * error and loss < blind:
            verdict, fault = OK if gain > GOOD_GAIN else DOUBT, "weak language model"
            advice = "small, or trained on little text, or layers missing; calibrating and fine-tuning weaken it, too"
        self.add(
            "masked-LM loss", verdict,
            f"{loss:.2f} nats on {len(real)} tokens of {self.source}, {other:.2f} with its words shuffled",
            f"at least {GOOD_GAIN} less than shuffled, far below log rows {blind:.2f}",
            {"real": loss, "shuffled": other, "gain": gain, "error": error, "log_rows": blind},
            fault, advice, symptom=True,
        )  # fmt: skip

    def check_scores(self) -> None:
        store = _there(self.store)
        try:
            found = Outcome(_there(self.ranker).score(store), store)
        except ClozeError as error:
            self.add("accuracy", UNFIT, str(error), "", {}, "NaN scores", "fp16 overflow or damaged weights", True)
            return self.add("ties", SKIPPED, "there are no scores")
        metrics, blanks = metrics_of(found.counts), found.counts["n_blanks"]
        low, high = (100 * bound for bound in wilson_interval(found.counts["n_correct"], blanks))
        gold = store.columns["gold"]
        majority = 100 * int(np.bincount(gold[gold >= 0]).max()) / blanks
        accuracy, chance = metrics["accuracy"], metrics["chance"]
        self.add(
            "accuracy", OK if low > max(chance, majority) else UNFIT if low <= chance and blanks >= 100 else DOUBT,
            f"{accuracy:.1f}% of {blanks} blanks, 95% interval {low:.1f} to {high:.1f}%",
            f"the interval above chance {chance:.1f}% and majority {majority:.1f}%",
            dict(blanks=blanks, accuracy=accuracy, low=low, high=high, chance=chance, majority=majority),
            "accuracy at chance" if low <= chance else "accuracy at majority",
            "see docs/chance.md" if blanks >= 100 else "few blanks: pass a larger DATA-BIN", symptom=True,
        )  # fmt: skip
        tied = measures.tied_blanks(found.probabilities, store)
        share = tied / store.blanks
        self.add(
            "ties", OK if share <= 0.01 else DOUBT if share <= 0.05 else UNFIT,
            f"{tied} of {store.blanks} blanks have two best candidates", "at most 1%",
            {"tied": tied, "blanks": store.blanks}, "tied scores",
            "the model tells candidates not apart: constant output, or rounded scores", symptom=True,
        )  # fmt: skip


def _there(found: T | None) -> T:
    assert found is not None  # or the check would not be made
    return found
