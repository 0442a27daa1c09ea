"""Pickles become plain data: no name of theirs is imported or called, and none of them takes for ever."""

from __future__ import annotations

import io
import os
import pickle
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze.weights.plain import DROPPED, Refused, Unpickler, show, to_plain


def plain(content: bytes, convert: Any = None) -> Any:
    return to_plain(Unpickler(io.BytesIO(content)).load(), lambda ref, place: ref, convert)


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def test_plain_values_stay() -> None:
    value = {
        "a": [1, 2.5, None, True, b"\x00\xff", 10**30],
        "b": {(1, "x"): (torch.float16, torch.device("cpu"))},
        3: {"set", "of"},
        "e": "é\ud800",
    }
    for protocol in range(2, 6):
        assert plain(pickle.dumps(value, protocol)) == value
    found = plain(
        pickle.dumps([Namespace(a=1), OrderedDict(b=2), defaultdict(list, c=[3]), Counter("dd"), torch.Size([4])], 2)
    )
    assert found == [Namespace(a=1), {"b": 2}, {"c": [3]}, {"d": 2}, (4,)]
    assert list(map(type, found)) == [Namespace, dict, dict, dict, tuple]


def test_what_contains_itself() -> None:
    value: dict[str, Any] = {}
    value["self"] = [value]
    found = plain(pickle.dumps(value))
    assert found["self"][0] is found


@pytest.mark.parametrize("protocol", range(2, 6))
def test_nothing_of_a_file_runs(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    calls = [(os.system, (f"touch {marker}",)), (eval, (f"open({str(marker)!r}, 'w')",)), (open, (str(marker), "w"))]
    for call in calls:
        content = pickle.dumps({"x": [Runs(*call)]}, protocol)
        with pytest.raises(Refused) as error:
            plain(content)
        assert list(error.value.found.values()) == ["x[0]"]
        assert plain(content, lambda value, place, walk: DROPPED) == {"x": []}
    assert not marker.exists()


def test_no_module_is_imported() -> None:
    with pytest.raises(Refused) as error:
        plain(b"cthis\nthing\n.")
    assert error.value.found == {"this.thing": ""}


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n}X\x0c\x00\x00\x00__defaults__K\x01sb.",  # a state for a function
        b"\x80\x02cargparse\nNamespace\n}X\x05\x00\x00\x00stateK\x01sb.",  # or for a class
        b"\x80\x02}" + b"((" + b"K\x01" + b"t" + b"tK\x01s.",  # keys of tuples in tuples: 2^n steps
        b"\x80\x02c__builtin__\nset\n]((K\x01tta\x85R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    ],
)
def test_states_and_keys_that_are_not_plain(content: bytes) -> None:
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        plain(content)


def test_a_large_memo_takes_no_memory() -> None:
    """C's unpickler makes room for 2^31 objects at ``LONG_BINPUT``."""
    assert plain(b"\x80\x02K\x05r\xff\xff\xff\x7f.") == 5


def test_values_in_messages() -> None:
    assert [show(value) for value in ("a\nb", 1.5, 10**5000, [1], None)] == [
        *("a\\nb", "1.5", "a number of 16,610 bits", "a list", "None")
    ]
