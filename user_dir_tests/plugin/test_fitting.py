"""fit-batch: what it recommends fits, clearly more does not, and what it predicts is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError, OutOfMemory
from fairseq_cloze.plugin import fitting
from fairseq_cloze.plugin.fitting import fit_batch

from ..support.commands import ROOT, run

GIB = 2**30


# -- the search, on a device that is made up -------------------------------------------------------------------------


class Device:
    """10 GiB; 3 GiB and 1 MiB per token in a backward pass, *fragments* of the rest cannot be used."""

    def __init__(self, fragments: float = 0.0, bend: float = 0.0, **facts: Any) -> None:
        self.facts: dict[str, Any] = {"device": "GPU", "limit": 10 * GIB, "max_tokens": None, "update_freq": 1}
        self.facts.update(parameters=100, weights=400, gradients=400, optimizer=800, least=300, total=10**6, **facts)
        self.fragments, self.bend, self.tried = fragments, bend, [0][:0]

    def measure(self, tokens: int) -> dict[str, Any]:
        self.tried.append(tokens)
        peak = int(3 * GIB + tokens * 2**20 + self.bend * tokens**2)
        if peak > (1 - self.fragments) * 10 * GIB:
            return {"fits": False}
        return {"fits": True, "backward": peak, "update": 4 * GIB, "reserved": peak, "outside": 0}


def search(device: Any, share: float = 0.92) -> fitting.FitResult:
    return fitting._search(device, share, lambda line: None)


def test_a_line_needs_four_sizes() -> None:
    device = Device()
    found = search(device)
    assert device.tried == [512, 1024, 2048, 6336]  # (9.2 - 3) GiB of 1 MiB each, in steps of 32
    assert (found.max_tokens, found.peak, found.predicted) == (6336, 3 * GIB + 6336 * 2**20, 3 * GIB + 6336 * 2**20)
    assert found.update == 4 * GIB  # the optimizer's step
    assert found.fixed + 7000 * found.per_token == pytest.approx(3 * GIB + 7000 * 2**20, rel=1e-6)
    assert found.options == "--max-tokens 6336"
    assert found.lines() == [
        "GPU: 10.000 GiB, of which 92% may be filled",
        "100 parameters: weights 0.000, gradients 0.000, optimizer 0.000 GiB, 16.0 bytes each",
        "a token of a batch takes 1.000 MiB",
        "    tokens  predicted GiB   measured GiB",
        "       512                         4.000",
        "     1,024                         4.000",
        "     2,048          5.000          5.000",
        "     6,336          9.188          9.188",
        "--max-tokens 6336",
    ]


def test_what_is_not_as_predicted_is_corrected() -> None:
    bent = Device(bend=20.0)
    found = search(bent)
    assert found.peak <= 0.92 * 10 * GIB
    assert found.peak > 0.92 * 10 * GIB * 0.95
    fragmented = Device(fragments=0.3)
    found = search(fragmented)
    assert [probe.tokens for probe in found.probes if probe.peak is None][0] == 6336
    assert 0.9 * 4096 < found.max_tokens <= 4096
    assert "none left" in "\n".join(found.lines())


def test_what_is_far_is_approached() -> None:
    device = Device()
    device.facts["limit"] = 100 * GIB
    device.measure = lambda tokens: {  # type: ignore[method-assign]
        "fits": True,
        "backward": 3 * GIB + tokens * 2**20,
        "update": 0,
        "reserved": 0,
        "outside": 0,
    }
    found = search(device)
    assert [probe.tokens for probe in found.probes] == [512, 1024, 2048, 22784, 91136]


def test_more_than_is_wanted_is_not_looked_for() -> None:
    device = Device()
    found = fitting._search(device, 0.92, lambda line: None, at_most=4096)
    assert device.tried == [512, 1024, 2048, 4096] and found.max_tokens == 4096


def test_updates_stay_as_large() -> None:
    assert search(Device(**{"max_tokens": 16384, "update_freq": 2})).options == "--max-tokens 6336 --update-freq 6"
    assert search(Device(**{"max_tokens": 4096})).options == "--max-tokens 6336 --update-freq 1"


def test_more_than_all_is_of_no_use() -> None:
    device = Device()
    device.facts["total"] = 3000
    assert search(device).max_tokens == 3000
    device.facts["least"] = 8000
    device.facts["total"] = 9000
    with pytest.raises(
        OutOfMemory, match=r"^the most expensive item alone, 8,000 tokens, does not fit into 10.000 GiB"
    ):
        search(device)


# -- for real --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options(pretrained: Path, data_bin: Path) -> list[str]:
    return [
        *(str(data_bin), "--arch", "cloze_roberta", "--finetune-from-model", str(pretrained / "model.pt")),
        *("--lr", "1e-3", "--dropout", "0", "--cpu", "--num-workers", "0"),
    ]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        pytest.param(["--arch", "none"], "training cannot start with these options: ", marks=pytest.mark.slow),
        (["--finetune-from-model", "gone.pt"], "--finetune-from-model gone.pt: no such checkpoint; "),
    ],
)
def test_options_that_make_no_training(options: list[str], more: list[str], text: str) -> None:
    with pytest.raises(ClozeError) as error:
        fit_batch([*options, *more])
    assert str(error.value).startswith(text)


@pytest.mark.slow
def test_what_fits(tmp_path: Path, options: list[str]) -> None:
    """The largest size under a limit is measured as predicted; it trains under that limit, twice as much does not."""
    save = tmp_path / "save"
    command = ("fairseq-cloze", "fit-batch", *options, "--save-dir", save, "--memory-limit", "0.6")
    run(*command, "--json", tmp_path / "fit.json")
    found = json.loads((tmp_path / "fit.json").read_text())
    assert not save.exists()
    assert found["predicted"] == pytest.approx(found["peak"], rel=0.1)
    assert found["peak"] <= found["share"] * found["limit"]
    assert found["weights"] == found["gradients"] == 4 * found["parameters"]
    assert found["optimizer"] == 8 * found["parameters"]
    script = (
        "import sys; from fairseq_cloze.plugin import fitting as f\n"
        "with f._Measuring(f._completed(sys.argv[2:]), int(0.6 * 2**30)) as m: print(m.measure(int(sys.argv[1])))"
    )
    for tokens, fits in ((found["max_tokens"], True), (2 * found["max_tokens"], False)):
        ran = run(sys.executable, "-c", script, tokens, *options, cwd=ROOT)
        assert f"'fits': {fits}" in ran.text


def test_what_takes_more_than_the_limit_does_not_fit(options: list[str]) -> None:
    """Also where it is so little more that memory does not run out."""
    with pytest.raises(
        OutOfMemory, match=r"^the most expensive item alone, \d+ tokens, does not fit into 0\.\d+ GiB on cpu"
    ):
        fit_batch(options, memory_limit=1)  # what the process has already is more


def test_help_says_the_share_that_is_taken() -> None:
    """The help of commands loads no module that computes, so it has the number in words."""
    from click.testing import CliRunner

    from fairseq_cloze.cli.fit_batch import command

    assert f"[default: {fitting.SHARE}]" in CliRunner().invoke(command, ["--help"]).output
