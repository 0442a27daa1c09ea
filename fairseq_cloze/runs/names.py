"""Names: files that a training writes into its save-dir."""

from __future__ import annotations

#: What fairseq resumes, and its default of ``--restore-file``.
LAST_CHECKPOINT = "checkpoint_last.pt"

BEST_CHECKPOINT = "checkpoint_best.pt"
