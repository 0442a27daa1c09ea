"""A view that has costs and nothing else."""

from __future__ import annotations

import numpy as np

from fairseq_cloze.views.view import View


class Costs(View):
    """Items of given costs, without content."""

    def __init__(self, row_length: list[int], rows: list[int]) -> None:
        self.row_length = np.array(row_length, dtype=np.int64)
        self.rows = np.array(rows, dtype=np.int64)
