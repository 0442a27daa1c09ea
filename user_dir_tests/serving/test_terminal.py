"""Questions and answers in the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_cloze.ranking.ranker import Ranked, Ranker
from fairseq_cloze.serving.terminal import converse, split_options, table

from ..support.commands import start


def test_options_of_a_line() -> None:
    assert split_options(" went, go ,/\n") == ["went", "go", "/"]
    assert split_options("cold | the, cold |") == ["cold", "the, cold", ""]


def test_a_table() -> None:
    """The best first; what would move the cursor is shown, and wide characters line up."""
    ranked = Ranked(("go", "\x1b[2J", "", "买到", "x" * 50), (0, 2, -1, 1, -2), (0.1, 0.6, 0.05, 0.2, 0.05), 1)
    assert table(ranked) == [
        f"   1  \\x1b[2J{' ' * 33}  0.6000  {'#' * 14}",
        f"   2  买到{' ' * 36}  0.2000  #####",
        f"   3  go{' ' * 38}  0.1000  ##",
        f"   4  (nothing){' ' * 31}  0.0500  #",
        f"   5  {'x' * 37}...  0.0500  #",
    ]


def talk(ranker: Ranker, *said: str, blank: str | None = None) -> tuple[list[str], list[str]]:
    """What is asked and what is told, where a user says some lines and then ends the input."""
    lines, asked, told = list(said), [], []  # type: ignore[var-annotated]

    def ask(question: str) -> str:
        asked.append(question)
        if not lines:
            raise EOFError
        return lines.pop(0)

    converse(ranker, ask, told.append, blank)
    return asked, told


def test_a_conversation(ranker: Ranker) -> None:
    text = "She _ to a school near the old mill by the river, and it was _ ."
    asked, told = talk(ranker, text, "went, go", "cold|/", "No gap.", "One _ .", "word", "Again _")
    assert asked == [
        *("text: ", "options of blank 1: ", "options of blank 2: ", "text: "),
        *("text: ", "options of blank 1: ", "text: ", "options of blank 1: "),
    ]
    first, second = ranker.rank(text, [["went", "go"], ["cold", "/"]])
    assert told == [
        "A text with _ for each blank, then the options of each: a, b, c or a | b | c. Ctrl-D ends.",
        f"blank 1: She [{first.answer}] to a school near the old mill",
        *table(first),
        f"blank 2: mill by the river, and it was [{second.answer}] .",
        *table(second),
        "no blank: write _ where something is missing",
        "blank 1, field 'options': expected a list of 2 to 127 strings, found 1",
    ]


def test_an_empty_text_ends_it(ranker: Ranker) -> None:
    assert talk(ranker, " ", "more")[0] == ["text: "]


def test_another_mark(pretrained: Path) -> None:
    from fairseq_cloze import load

    asked, told = talk(load(pretrained / "model.pt", blank="<gap>"), "It a_b <gap> .", "a,b", "_", blank="<gap>")
    assert asked == ["text: ", "options of blank 1: ", "text: ", "text: "]
    assert told[0].startswith("A text with '<gap>' for each") and told[1].startswith("blank 1: It a_b [")
    assert told[-1] == "no blank: write '<gap>' where something is missing"


def test_the_command(pretrained: Path, ranker: Ranker, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("It was _ .\ncalm, cold\n")
    with open(tmp_path / "said") as said:
        process = start("fairseq-cloze", "try", pretrained / "model.pt", stdin=said)
        text, _ = process.communicate()
    [ranked] = ranker.rank("It was _ .", [["calm", "cold"]])
    assert process.returncode == 0
    assert text.splitlines()[-3:] == [f"blank 1: It was [{ranked.answer}] .", *table(ranked)]


def test_serving_needs_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    from fairseq_cloze.errors import SetupError

    monkeypatch.delitem(sys.modules, "fairseq_cloze.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SetupError) as error:
        importlib.import_module("fairseq_cloze.serving.server")
    assert str(error.value) == "uvicorn is not installed; run: pip install 'fairseq-cloze[serve]'"
