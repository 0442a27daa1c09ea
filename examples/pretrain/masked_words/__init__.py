"""Masked words: fairseq's user dir for pretraining towards cloze exams.

``--task masked_words --criterion masked_words --optimizer muon``; and the models and options of ``fairseq_cloze``.
"""

import fairseq_cloze

fairseq_cloze.register()

from . import criterion, optimizer, task  # noqa: E402, F401
