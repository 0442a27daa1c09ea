"""A few inputs for each target of the fuzzer, and all that were found before; the rest is for its command."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import pytest

from . import fuzzing, mutations


def test_every_attack_can_be_started() -> None:
    """Those that are run by hand, too."""
    names = {each.stem for each in Path(__file__).parent.glob("[a-z]*.py")}
    for name in sorted(name for name in names if not name.startswith("test_")):
        importlib.import_module(f"{__package__}.{name}")


@pytest.mark.parametrize("name", fuzzing.names())
def test_parsers_answer_or_refuse(name: str) -> None:
    target = fuzzing.load(name)
    known = fuzzing.known_inputs(name, target)
    for data in known:
        target.attack(data)
    end = time.process_time() + 0.2
    for number in range(300):
        data = mutations.mutated(known, f"test {name} {number}")
        error = fuzzing.failure(target, data)
        assert error is None, f"{data[:300]!r}: {error!r}"
        if time.process_time() > end:
            break


def test_findings_are_noticed_and_kept(tmp_path: object) -> None:
    """So that the test above is not blind."""

    class Bad:
        @staticmethod
        def seeds() -> list[bytes]:
            return [b'{"a": 1}']

        @staticmethod
        def attack(data: bytes) -> None:
            if b"NaN" in data:
                raise KeyError("nan")

    errors = [fuzzing.failure(Bad(), mutations.mutated(Bad.seeds(), str(number))) for number in range(1000)]
    assert {type(error) for error in errors} == {type(None), KeyError}
    assert mutations.mutated([b"abc"], "5") == mutations.mutated([b"abc"], "5")


def test_what_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        @staticmethod
        def seeds() -> list[bytes]:
            return []

        @staticmethod
        def attack(data: bytes) -> None:
            try:
                time.sleep(10)
            except Exception:
                pass

    monkeypatch.setattr(fuzzing, "SECONDS", 0.05)
    assert isinstance(fuzzing.failure(Slow(), b""), fuzzing.TooSlow)
