"""Known options: what task, criterion, model and optimizer of this project take, without fairseq at hand.

``options.json`` beside this file is made from their declarations by ``scripts/options_page.py``; a test compares.
"""

import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("options.json")


@dataclass(frozen=True)
class KnownOption:
    """An option of ``fairseq-train``."""

    name: str  #: with the dashes
    values: str  #: what it takes: names with bars between them, a word for something else, nothing for a flag
    default: str  #: empty where its text says it, and for flags
    text: str


def known_options() -> dict[str, list[KnownOption]]:
    """Options by group, in the order of the declarations."""
    groups = json.loads(FILE.read_text(encoding="utf-8"))
    return {title: [KnownOption(**option) for option in options] for title, options in groups.items()}
