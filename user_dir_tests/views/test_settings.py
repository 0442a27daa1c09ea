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
    assert PartialSettings("joint", "l2r", contrast=0.0).completed() == Settings("joint", "l2r", "remove", 0.0)


def test_a_scorer_of_another_view_is_left_behind() -> None:
    carried = PartialSettings("full", "head", "mask", 0.2)
    assert PartialSettings(view="joint").completed(carried) == Settings("joint", "mean", "mask", 0.2)
    assert PartialSettings(view="neighbors").completed(carried) == Settings("neighbors", "head", "mask", 0.2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"view": "whole"}, "--view: expected one of joint, full, neighbors, found 'whole'"),
        ({"scorer": "max"}, "--scorer: expected one of mean, kmask, l2r, head, found 'max'"),
        ({"other_blanks": "keep"}, "--other-blanks: expected one of remove, mask, gold, found 'keep'"),
        (
            {"view": "joint", "scorer": "head"},
            "--view joint needs --scorer mean, kmask or l2r, found --scorer head",
        ),
        ({"view": "full", "scorer": "kmask"}, "--view full needs --scorer mean or head, found --scorer kmask"),
        ({"contrast": 1.5}, "--contrast: expected a number from 0 to 1, found 1.5"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(values: dict[str, Any], message: str) -> None:
    for settings in (lambda: Settings(**values), PartialSettings(**values).completed):
        with pytest.raises(ClozeError) as error:
            settings()
        assert str(error.value) == message


def test_a_scorer_that_is_gone() -> None:
    """A checkpoint of an earlier version, trained with ``--scorer sum``, is scored as the user says."""
    carried = PartialSettings("joint", "sum", "remove", 0.7)
    with pytest.raises(ClozeError) as error:
        AS_TRAINED.completed(carried)
    assert str(error.value) == (
        "--scorer: expected one of mean, kmask, l2r, head, found 'sum', which the checkpoint was trained with; "
        "choose one, such as --scorer mean"
    )
    assert PartialSettings(scorer="mean").completed(carried) == Settings()
