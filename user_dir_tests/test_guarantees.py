"""docs/guarantees.md names tests that exist."""

from __future__ import annotations

import re

from .support.commands import ROOT

TESTS = ROOT / "user_dir_tests"
NAMED = re.compile(r"((?:\w+/)*(?:test_|fuzz_)\w+\.py)|\b(test_\w+)\b")


def test_each_promise_has_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    files = {str(path.relative_to(TESTS)): path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py")}
    defined = {name for text in files.values() for name in re.findall(r"def (test_\w+)\(", text)}
    named = NAMED.findall(page)
    assert named
    assert [file for file, _ in named if file and file not in files] == []
    assert [name for _, name in named if name and name not in defined] == []


def test_each_row_of_a_table_names_a_test() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| (?!promise|case|-)", line)]
    assert [row for row in rows if not NAMED.search(row)] == []
