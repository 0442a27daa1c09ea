"""CLOTH and real weights: exact counts, identical tokens, equal predictions.  Optional local data, see conftest."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze import register
from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.passages.passage import LETTERS
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.passages.text import BLANK, NOTHING, normalise

from .support.commands import run
from .support.local import local, unpack
from .support.models import fairseq_ids

register()

from fairseq_cloze.ranking.evaluate import evaluate  # noqa: E402
from fairseq_cloze.ranking.predict import predict  # noqa: E402
from fairseq_cloze.ranking.ranker import load  # noqa: E402
from fairseq_cloze.ranking.resources import Resources  # noqa: E402
from fairseq_cloze.views.settings import PartialSettings  # noqa: E402


@pytest.fixture(scope="module")
def cloth_bin(tmp_path_factory: pytest.TempPathFactory, cloth: Path, gpt2_bpe: Path) -> Path:
    folder = tmp_path_factory.mktemp("cloth") / "bin"
    done = run(
        *("fairseq-cloze", "prepare", "--train", cloth / "train", "--valid", cloth / "valid"),
        *("--pretrained", gpt2_bpe, "--out", folder),
    )
    (folder / "report.txt").write_text(done.text)
    return folder


def test_prepare_reports_every_passage_and_blank(cloth_bin: Path, cloth: Path) -> None:
    assert (cloth_bin / "report.txt").read_text().splitlines() == [
        "train: 5,513 passages, 76,850 blanks, 1 skipped",
        f"  skipped {cloth}/train/high/high515.json: no blank: the article holds no underscore",
        "valid: 805 passages, 11,067 blanks, 0 skipped",
        f"wrote {cloth_bin}",
    ]


def test_official_vocabulary_is_rebuilt_from_the_merges(gpt2_bpe: Path) -> None:
    """What an import of roberta-base writes is what fairseq distributes."""
    official = Vocabulary.load(gpt2_bpe)
    tokens = list(official.token_rows())[4:-1]
    rebuilt = Vocabulary.build(tokens, official.merges, "test")
    assert len(official) == 50265
    assert json.loads(rebuilt.fairseq_files()["encoder.json"]) == json.loads(official.fairseq_files()["encoder.json"])
    assert rebuilt.dictionary_digest == official.dictionary_digest
    assert rebuilt.tokenizer_digest == official.tokenizer_digest


@pytest.mark.slow
def test_tokens_are_fairseqs_on_all_of_cloth_train(cloth: Path, gpt2_bpe: Path) -> None:
    vocabulary = Vocabulary.load(gpt2_bpe)
    encode, _ = fairseq_ids(gpt2_bpe)
    passages = blanks = 0
    for passage in read_passages([cloth / "train"]):
        segments = BLANK.split(normalise(passage.article))
        expected: list[int] = []
        for segment in segments[:-1]:
            expected += [*(encode(segment.rstrip()) if segment.rstrip() else []), vocabulary.mask]
        expected += encode(segments[-1]) if segments[-1] else []
        columns = encode_passages([passage], vocabulary)
        assert columns["tokens"].tolist() == expected, passage.id
        candidates: list[int] = []
        for segment, row in zip(segments, passage.candidates):
            space = " " if segment != segment.rstrip() else ""
            for choice in row:
                candidates += encode(space + choice) if choice not in NOTHING else []
        assert columns["candidate_tokens"].tolist() == candidates, passage.id
        passages, blanks = passages + 1, blanks + len(passage.gold)
    assert (passages, blanks) == (5512, 76850)


def test_logits_of_real_weights_equal_transformers(weights: Path, roberta6: Path, cloth: Path) -> None:
    from transformers import RobertaForMaskedLM

    theirs = RobertaForMaskedLM.from_pretrained(roberta6, torch_dtype=torch.float32).eval()
    [member] = load(weights / "model.pt").members
    passages = list(read_passages([cloth / "valid" / "high"]))[:2]
    rows = [[0, *encode_passages([p], member.vocabulary)["tokens"].tolist(), 2] for p in passages]
    tokens = torch.full((2, max(map(len, rows))), 1)
    for row, values in zip(tokens, rows):
        row[: len(values)] = torch.tensor(values)
    real = tokens.ne(1)
    with torch.inference_mode():
        expected = theirs(tokens, attention_mask=real.long()).logits
        found = member.model(tokens)[0]
    assert (found - expected)[real].abs().max() <= 1e-4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_predictions_equal_a_transformers_loop(weights: Path, roberta6: Path, gpt2_bpe: Path, cloth: Path) -> None:
    """100 passages, one at a time, tokenised by transformers, the mean logit at the mask; it has no contrast."""
    from transformers import RobertaForMaskedLM, RobertaTokenizerFast

    vocabulary = Vocabulary.load(gpt2_bpe)
    folder = weights / "tokenizer"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary.token_rows()))
    merges = "".join(f"{a} {b}\n" for a, b in vocabulary.merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)
    tokenizer = RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    model = RobertaForMaskedLM.from_pretrained(roberta6, torch_dtype=torch.float32).eval()
    files = sorted((cloth / "valid").glob("*/*.json"))
    random.Random(0).shuffle(files)
    expected: dict[str, list[str]] = {}
    used: list[Path] = []
    for file in files:
        if len(used) == 100:
            break
        fields: dict[str, Any] = json.loads(file.read_text())
        article = normalise(fields["article"])
        ids = tokenizer(BLANK.sub("<mask>", article))["input_ids"]
        if len(ids) > 512:
            continue  # the loop has no windows
        used.append(file)
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0]
        masks = [position for position, token in enumerate(ids) if token == tokenizer.mask_token_id]
        assert len(masks) == len(fields["options"])
        letters = []
        for before, position, row in zip(BLANK.split(article), masks, fields["options"]):
            space = " " if before != before.rstrip() else ""
            candidates = [tokenizer(space + choice.strip(), add_special_tokens=False)["input_ids"] for choice in row]
            scores = [logits[position, tokens].mean().item() for tokens in candidates]
            letters.append(LETTERS[scores.index(max(scores))])
        expected[file.stem] = letters
    found = predict(weights / "model.pt", used, settings=PartialSettings(contrast=0.0)).answers
    assert sum(map(len, expected.values())) > 1200
    assert found == expected


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_zero_shot_at_every_batch_size(weights: Path, cloth_bin: Path) -> None:
    results = [evaluate(weights / "model.pt", cloth_bin, resources=Resources(batch_size=size)) for size in (1, 7, 64)]
    assert [result.n_blanks for result in results] == [11067] * 3
    assert len({result.accuracy for result in results}) == 1
    assert results[0].accuracy == pytest.approx(45.95, abs=0.05)
    assert results[0].chance == pytest.approx(25.0, abs=0.01)


@pytest.mark.slow
def test_raw_text_costs_accuracy(tmp_path: Path, weights: Path, cloth: Path) -> None:
    """The first passages, as exam files are typed and as pretraining text looks."""
    from fairseq_cloze.data.encoding import EncodingOptions

    files = sorted((cloth / "valid" / "middle").glob("*.json"))[:15]
    accuracy = {}
    for norm in ("none", "standard"):
        prepare({"valid": files}, weights, tmp_path / norm, EncodingOptions(norm), workers=1)
        accuracy[norm] = evaluate(weights / "model.pt", tmp_path / norm).accuracy
    assert accuracy["standard"] > accuracy["none"] > 25


@pytest.mark.slow
def test_every_ele_passage_is_read(tmp_path_factory: pytest.TempPathFactory, gpt2_bpe: Path) -> None:
    """Padded options, phrases, numbers beside blanks: nothing is skipped."""
    folder = unpack(local("data", "ele-train-clean.tar.xz"), tmp_path_factory.mktemp("ele"))
    out = tmp_path_factory.mktemp("ele-bin") / "bin"
    [report] = prepare({"train": [folder]}, gpt2_bpe, out, workers=2)
    assert (report.read, report.tally.passages, report.tally.blanks, report.unknown_tokens) == (3668, 3668, 66519, 0)
    assert report.tally.skipped == []
