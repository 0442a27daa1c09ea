"""Markers of blanks other than underscores: what is taken, what is refused, what is advised."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.errors import ClozeError, PassageError
from fairseq_cloze.passages.markers import compile_marker, likely_marker, mark_blanks
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.passages.text import BLANK, MARKED, UNDERSCORE, plain

TWO = ["calm", "cold"]


@pytest.mark.parametrize(
    ("regex", "article", "parts"),
    [
        ("<mask>", "It <mask>, so <mask>.", ["It ", ", so ", "."]),
        (r"\[MASK\]", "a snake_case [MASK] [MASK][MASK]1[MASK]", ["a snake_case ", " ", "", "1", ""]),
        (r"_+\(\d+\)_+", "the ___(3)___ _ end__(4)__", ["the ", " _ end", ""]),
        ("＿+", "他＿＿了_本。", ["他", "了_本。"]),
        ("……", "Well …… so… ……", ["Well ", " so… ", ""]),
        (r"\s*#\d+\s*", "It #1 was#2.", ["It ", " was", "."]),  # white space around a blank stays
        ("<mask>|_+", "<mask> a __", ["", " a ", ""]),
    ],
)
def test_what_a_marker_finds(regex: str, article: str, parts: list[str]) -> None:
    """Exactly what it finds is a blank; underscores elsewhere are text."""
    marked = mark_blanks(article, compile_marker(regex))
    assert [plain(part) for part in BLANK.split(marked)] == parts
    assert BLANK.findall(marked) == [MARKED] * (len(parts) - 1)


@given(st.text(alphabet=f"a_1#{MARKED}{UNDERSCORE} "))
def test_no_marker_in_a_text_is_made_up(text: str) -> None:
    odd = str.maketrans(dict.fromkeys((MARKED, UNDERSCORE), "\ufffd"))
    assert mark_blanks(text, None) == text.translate(odd)
    marked = mark_blanks(text, compile_marker("#"))
    assert plain(marked.replace(MARKED, "#")) == text.translate(odd)
    assert len(BLANK.findall(marked)) == text.count("#")


SLOW = "which may take for ever"


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        ("[", "expected a regular expression, found '[' (unterminated character set at position 0); write \\ before"),
        ("[[MASK]]", "expected a regular expression, found '[[MASK]]' (Possible nested set at position 1); write \\"),
        ("", "expected what stands for a blank, found '', which fits where nothing stands; write one that needs"),
        ("_*", "expected what stands for a blank, found '_*', which fits where nothing stands; write one that needs"),
        ("(_+)+x", f"expected no group that is repeated and no comment, found '(_+)+x', {SLOW}; repeat single"),
        ("(?:a|a)*b", f"expected no group that is repeated and no comment, found '(?:a|a)*b', {SLOW}"),
        ("(a|aa){9}b", f"expected no group that is repeated and no comment, found '(a|aa){{9}}b', {SLOW}"),
        ("(?x)(a+) +b", f"expected no group that is repeated and no comment, found '(?x)(a+) +b', {SLOW}"),
        ("(a+)(?#x)+b", f"expected no group that is repeated and no comment, found '(a+)(?#x)+b', {SLOW}"),
        ("a?" * 13 + "b", f"expected at most 200 characters and 12 of * + ? {{ |, found '{'a?' * 13}b', {SLOW}"),
        ("a" * 201, f"expected at most 200 characters and 12 of * + ? {{ |, found '{'a' * 60}', {SLOW}"),
    ],
)
def test_refused_markers(regex: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(ClozeError) as error:
        compile_marker(regex)
    assert str(error.value).startswith(f"--blank: {message}")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("regex", [r"\)+", "[)]+x", r"(?:\[MASK\]|_+)", "(_+)?x", r"\(\?#\)"])
def test_what_only_looks_slow_is_taken(regex: str) -> None:
    marker = compile_marker(regex)
    assert marker is not None and marker.pattern == regex


def test_a_marker_that_fits_beside_a_text_is_refused_when_it_does() -> None:
    with pytest.raises(ClozeError, match=r"^--blank: expected what stands for a blank, found '\(\?=x\)', which fits"):
        mark_blanks("a x", compile_marker("(?=x)"))


@pytest.mark.parametrize(
    ("article", "count", "regex"),
    [
        ("a ___(3)___ b ___(4)___", 2, r"_+\(\d+\)_+"),
        ("a [MASK] b [MASK]. (1) [MASK]", 3, r"\[MASK\]"),
        ("a <mask> b <mask>", 2, "<mask>"),
        ("他＿＿了＿＿＿。", 2, "＿+"),
        ("I …… a ……… b", 2, "…{2,}"),
        ("a ...... b ....", 2, r"\.{4,}"),
        ("a [41] b [42]", 2, r"\[\d+\]"),
        ("a {{x}} {{it's}}", 2, r"\{\{[^{}]*\}\}"),
        ("it [blank 1] is [blank 2]", 2, r"\[blank\s*\d+\]"),
        ("他（ ）了（  ）。", 2, r"（\s*）"),
    ],
)
def test_the_marker_that_seems_meant_is_named_and_works(article: str, count: int, regex: str) -> None:
    """The message names the text, the count and an option; with that option the passage is read."""
    fields = {"article": article, "options": [TWO] * count}
    with pytest.raises(PassageError) as error:
        Passage.from_json(fields, "x.json", "x")
    assert f"; the text holds {count} '" in error.value.problem
    assert error.value.problem.endswith(f"': if they stand for blanks, give --blank '{regex}'")
    assert len(Passage.from_json(fields, "x.json", "x", compile_marker(regex)).gold) == count


def test_advice_where_a_marker_was_chosen() -> None:
    meant = likely_marker("It _ and _ .", compile_marker("<mask>"), 2)
    assert meant == "; the text holds 2 '_': if they stand for blanks, leave out --blank"
    sets = likely_marker("A [MASK] here", compile_marker("[MASK]"), 1)  # the letters M, A, S and K
    assert sets == r"; the text holds 1 '[MASK]': if it stands for the blank, give --blank '\[MASK\]'"
    assert likely_marker("It was {{x}}.", compile_marker("<mask>"), 3) == ""


def test_advice_takes_no_time_on_long_runs() -> None:
    start = time.process_time()
    for character in "_[({<.-*\u2026\uff3f \uff08":
        likely_marker(character * 300_000, None, 7)
    assert time.process_time() - start < 5


def test_passages_are_read_with_a_marker(tmp_path: Path) -> None:
    """Options may hold the marker and underscores; answers and ids as ever."""
    fields: dict[str, Any] = {"article": "so_called [MASK] .", "options": [["a [MASK]", "b _"]], "answers": ["B"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(fields))
    [passage] = read_passages([tmp_path], marker=compile_marker(r"\[MASK\]"))
    assert passage.candidates == (("a [MASK]", "b _"),) and passage.gold == (1,)
    assert [plain(part) for part in BLANK.split(passage.article)] == ["so_called ", " ."]
    with pytest.raises(PassageError) as error:
        list(read_passages([tmp_path], marker=compile_marker("#")))
    assert error.value.problem == (
        "field 'article': expected a blank, '#', for what stands in 'options', found none; the text holds 1 '_': if "
        "it stands for the blank, leave out --blank"
    )
