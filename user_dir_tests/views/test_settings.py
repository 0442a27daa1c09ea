"""Settings: what is left open is completed, what does not go together is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.views.settings import AS_TRAINED, PartialSettings, Settings


def test_what_is_left_open_comes_from_the_checkpoint_then_from_training() -> None:
    carried = PartialSettings("full", "head", "mask", 0.2)
    assert AS_TRAINED.completed(carried) == Settings("full", "head", "mask", 0.2)
    assert AS_TRAINED.completed() == Settings() == Settings("joint", "mean", "remove", 0.7)
    chosen = PartialSettings(scorer="mean", other_blanks="gold", contrast=0.0)
    assert chosen.completed(carried) == Settings("full", "mean", "gold", 0.0)
    assert PartialSettings("joint", "l2r", contrast=0.0, refine=2).completed() == Settings(
        "joint", "l2r", "remove", 0.0, 2
    )


def test_a_scorer_of_another_view_is_left_behind() -> None:
    carried = PartialSettings("full", "head", "mask", 0.2)
    assert PartialSettings(view="joint").completed(carried) == Settings("joint", "mean", "mask", 0.2)
    assert PartialSettings(view="neighbors").completed(carried) == Settings("neighbors", "head", "mask", 0.2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"view": "whole"}, "--view: expected one of joint, full, neighbors, found 'whole'"),
        ({"scorer": "max"}, "--scorer: expected one of mean, sum, kmask, l2r, head, found 'max'"),
        ({"other_blanks": "keep"}, "--other-blanks: expected one of remove, mask, gold, found 'keep'"),
        (
            {"view": "joint", "scorer": "head"},
            "--view joint needs --scorer mean, sum, kmask or l2r, found --scorer head",
        ),
        ({"view": "full", "scorer": "kmask"}, "--view full needs --scorer mean or head, found --scorer kmask"),
        ({"contrast": 1.5}, "--contrast: expected a number from 0 to 1, found 1.5"),
        ({"view": "full", "refine": 1}, "refine and cascade need view joint, found view full"),
        ({"cascade": 1}, "--cascade 1: expected 0 or at least 2, one forward for each of two candidates"),
        ({"view": "neighbors", "cascade": 2}, "refine and cascade need view joint, found view neighbors"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(values: dict[str, Any], message: str) -> None:
    for settings in (lambda: Settings(**values), PartialSettings(**values).completed):
        with pytest.raises(ClozeError) as error:
            settings()
        assert str(error.value) == message
