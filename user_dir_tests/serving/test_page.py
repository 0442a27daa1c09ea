"""The page in headless Chromium, as somebody uses it who tries a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fairseq_cloze.ranking.ranker import Ranker

from ..support.chromium import chromium

TEXT = "She _ to school, and it was _ ."
OPTIONS = [["went", "go"], ["cold", "<b>x</b>", ""]]
PHONE = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}


browser = pytest.fixture(chromium, scope="module")


@pytest.mark.parametrize("context", [{}, PHONE], ids=["wide", "phone, dark"])
def test_a_text_is_tried(serving: Callable[..., Any], browser: Any, ranker: Ranker, context: dict[str, Any]) -> None:
    """Ranked as in Python, hostile options shown as they are, mistakes said, nothing asked of other places."""
    asker = serving()
    page = browser.new_page(**context)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(asker.server.url)
    page.fill("#text", TEXT)
    page.fill("#options", "went, go\n\ncold | <b>x</b> |")
    page.click("#send")
    page.wait_for_selector("table")
    shown = [row.split("\t")[:2] for row in page.locator("#answers").inner_text().splitlines() if "\t" in row]
    expected = [
        [one.options[index] or "(nothing)", f"{round(one.probabilities[index], 6):.4f}"]
        for one in ranker.rank(TEXT, OPTIONS)
        for index in one.order
    ]
    assert shown == expected
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert said == []
    page.fill("#options", "went")
    page.click("#send")
    page.wait_for_selector("#problem:not(:empty)")  # a function would be polled by eval, which the page forbids
    assert page.inner_text("#problem") == (
        "passage 1: field 'options': expected a list of 2, one entry for each of the 2 blanks in 'article', found 1"
    )
    assert page.locator("table").count() == 0
    assert set(asked) == {asker.server.url, f"{asker.server.url}predict"}
    page.close()
