"""Names: what fairseq's commands call this project's parts."""

from __future__ import annotations

TASK_NAME = "cloze_ranking"
CRITERION_NAME = "cloze_ranking"
MODEL_NAME = "cloze_roberta"
