"""Names: what fairseq's commands call this project's parts, and how these declare their options."""

from dataclasses import field
from typing import Any

from ..model.names import ANY_ARCHITECTURE as ANY_ARCHITECTURE

TASK_NAME = "cloze_ranking"
CRITERION_NAME = "cloze_ranking"
MODEL_NAME = "cloze_roberta"

#: Architectures of our model that take their shape from the checkpoint.
OPEN_ARCHITECTURES = (MODEL_NAME, ANY_ARCHITECTURE)


def option(default: Any, text: str) -> Any:
    """A field of a configuration of fairseq, with its help."""
    return field(default=default, metadata={"help": text})
