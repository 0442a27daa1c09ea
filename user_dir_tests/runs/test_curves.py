from __future__ import annotations

from typing import Any

import pytest

from fairseq_cloze.runs.curves import ChanceNotice, History, Point, add_point, history_of


def event(kind: str, update: Any, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "time": "2026-11-24T03:12:00.000+00:00", "update": update, "epoch": 1, **fields}


START = event("started", 0, settings={"task": {"view": "joint"}}, folder="/home/me")
CHANCE = event("chance", 6, text="at chance", causes=[{"kind": "high_rate", "text": "the rate"}], proved=["weights"])


def test_events_become_points() -> None:
    told = [
        START,
        event("update", 2, loss=1.5, accuracy=30.0, n_blanks=40, gnorm=None),
        event("validation", 4, subset="dev", loss=1.25, accuracy=31.5),
        event("epoch", 4, loss=1.375),
        CHANCE,
        event("finished", 6),
    ]
    assert history_of(told) == History(
        updates=[Point(2, 1.0, {"loss": 1.5, "accuracy": 30.0, "n_blanks": 40.0})],
        epochs=[Point(4, 1.0, {"loss": 1.375})],
        validations={"dev": [Point(4, 1.0, {"loss": 1.25, "accuracy": 31.5})]},
        chance=[ChanceNotice(6, "at chance", ["the rate"], ["weights"])],
        settings={"task": {"view": "joint"}},
        folder="/home/me",
    )


def test_what_a_resumed_training_had_done_beyond_its_checkpoint_does_not_count() -> None:
    told = [START, *(event("update", update, loss=float(update)) for update in (2, 4, 6, 8))]
    told += [event("validation", update, subset="valid", accuracy=float(update)) for update in (4, 8)]
    told += [event("validation", 8, subset="test", accuracy=1.0), event("epoch", 8, loss=1.0), CHANCE, CHANCE]
    back = history_of([*told, event("resumed", 4)])
    assert back.curve("loss") == [(2, 2.0), (4, 4.0)]
    assert back.validations == {"valid": [Point(4, 1.0, {"accuracy": 4.0})]}
    assert back.epochs == back.chance == []
    assert history_of([*told, event("resumed", 4), event("update", 6, loss=60.0)]).curve("loss")[-1] == (6, 60.0)
    assert history_of([*told, START]) == history_of([START])  # trained anew in the same folder


def test_a_repeated_update_replaces_it_and_all_behind_it() -> None:
    history = History()
    for update, loss in ((2, 1.0), (4, 2.0), (6, 3.0), (4, 4.0)):
        add_point(history.updates, Point(update, 1.0, {"loss": loss}))
    assert history.curve("loss") == [(2, 1.0), (4, 4.0)]


@pytest.mark.parametrize(
    "strange",
    [
        event("update", None, loss=1.0),
        event("update", "4", loss=1.0),
        event("news", 4, loss=1.0),
        event("validation", 4, loss=1.0),
        event("started", 0, settings=[1], folder=3),
    ],
)
def test_strange_events_are_passed_over(strange: dict[str, Any]) -> None:
    assert history_of([strange]) == History()


def test_training_by_update_before_training_by_epoch() -> None:
    valid = {"valid": [Point(4, 1.0, {"loss": 1.25, "accuracy": 30.0})]}
    epochs = [Point(4, 1.0, {"loss": 1.0})]
    history = History(updates=[Point(2, 1.0, {"loss": 1.5})], epochs=epochs, validations=valid)
    assert history.curves("loss") == {"training": [(2, 1.5)], "valid": [(4, 1.25)]}
    assert History(epochs=epochs, validations=valid).curves("loss") == {"training": [(4, 1.0)], "valid": [(4, 1.25)]}
    assert history.curves("accuracy") == {"valid": [(4, 30.0)]}
    assert history.curves("mrr") == {} and history.curve("loss", "test") == []


def test_the_first_of_equally_good_validations_is_the_best() -> None:
    points = [Point(update, 1.0, {"accuracy": value}) for update, value in ((2, 30.0), (4, 40.0), (8, 40.0))]
    history = History(validations={"valid": points, "test": points[:1]})
    assert history.best("valid") == points[1]
    assert history.best("test") == points[0]
    assert history.best("other") is History().best("valid") is None


def test_settings_that_are_not_known() -> None:
    history = History(settings={"task": {"data": "bin"}, "_name": None})
    assert history.setting("task", "data") == "bin"
    assert history.setting("task", "seed") is history.setting("common", "seed") is history.setting("_name", "x") is None
