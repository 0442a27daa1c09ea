"""Names: files that a training writes into its save-dir."""

#: What fairseq resumes, and its default of ``--restore-file``.
LAST_CHECKPOINT = "checkpoint_last.pt"
BEST_CHECKPOINT = "checkpoint_best.pt"
