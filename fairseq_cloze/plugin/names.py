"""Names: what fairseq's commands call this project's parts, and how these declare their options."""

from dataclasses import field
from typing import Any

TASK_NAME = "cloze_ranking"
CRITERION_NAME = "cloze_ranking"
MODEL_NAME = "cloze_roberta"


def option(default: Any, text: str) -> Any:
    """A field of a configuration of fairseq, with its help."""
    return field(default=default, metadata={"help": text})
