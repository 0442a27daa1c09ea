"""``scripts/gpu_check.sh`` without a GPU: its time, its lines, its verdicts, and each of its steps on small shapes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze.model.architecture import Architecture

from .support.commands import BIN, ROOT, run

sys.path.insert(0, str(ROOT / "scripts"))
from gpu_check import Check, Part, main, parts_on, run_part, run_parts
from gpu_measure import Measures, shape_flops
from gpu_report import GOALS, Goal, Report
from gpu_runs import POSITIONS, SHAPES

SAYS = f"""import sys; sys.path.insert(0, {str(ROOT / "scripts")!r})
from gpu_report import Report
from pathlib import Path
"""


def test_without_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ran = run("bash", ROOT / "scripts" / "gpu_check.sh", code=3, env={"VENV": str(BIN.parent)})
    assert ran.text == "no CUDA GPU at hand: nothing was checked (--device cpu runs the same steps on the CPU)\n"


@pytest.mark.slow  # docs/training.md has the same command, without a look at its figures
def test_everything_on_the_cpu(tmp_path: Path) -> None:
    """Everything the script does on a GPU, it does on a CPU, but for half precision."""
    out = tmp_path / "result.jsonl"
    options = ("--device", "cpu", "--minutes", "30", "--json", out)
    run("bash", ROOT / "scripts" / "gpu_check.sh", *options, env={"VENV": str(BIN.parent)})
    report = Report(out)
    assert {name for name, outcome in report.outcomes.items() if outcome == "done"} == {
        part.name for part in parts_on("cpu")
    }
    assert all(report.checks.values()) and len(report.checks) == 21
    figures = report.figures
    assert figures["learning"]["first run"]["updates"] == figures["learning"]["resumed run"]["updates"] == 60
    assert figures["validation"]["validate-fp16"]["n_blanks"] == 405
    assert figures["evaluation / cpu"]["n_blanks"] == figures["evaluation / cpu-fp16"]["n_blanks"] == 605
    assert 0 < figures["evaluation / cpu-fp16"]["largest difference of a probability"] < 0.05
    assert figures["evaluation / cpu"]["accuracy"] > 95
    for what in ("training", "scoring"):
        ours, peer = (f"{what} / tiny, {name}" for name in ("bf16", "transformers bf16"))
        share = 100 * figures[f"{ours} / tflops"] / figures["rate / bf16 / tflops"]
        assert figures[f"{ours} / share"] == pytest.approx(share) and share > 0
        times = figures[f"{ours} / tokens/s"] / figures[f"{peer} / tokens/s"]
        assert figures[f"{ours} / times transformers"] == pytest.approx(times)
    assert all(figures[f"whole step / tiny, {way} / seconds"] > 0 for way in ("eager", "compiled"))
    assert figures["memory / tiny"]["bytes_per_parameter"] == pytest.approx(16, abs=0.1)
    assert figures["memory / tiny"]["max_tokens"] > 500


def test_parts_end_fail_hang_and_are_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What a part has found is there whatever ends it; what it began is ended with it."""
    report, alive = Report(tmp_path / "out.jsonl"), tmp_path / "alive"
    says = f"{SAYS}Report(Path({str(report.path)!r})).add('hangs', figure='a', value=1)"
    child = f"import time; time.sleep(4); open({str(alive)!r}, 'w')"
    commands = {
        "good": "pass",
        "bad": "raise SystemExit(3)",
        "hangs": f"{says}; import subprocess; subprocess.run([sys.executable, '-c', {child!r}])",
        "large": "raise SystemExit('is not begun')",
        "last": "pass",
    }
    parts = [Part(name, 0, 30, Check.data) for name in commands]
    parts[2:4] = [parts[2]._replace(limit=2.5), parts[3]._replace(needs=1000)]
    start = time.monotonic()
    run_parts(parts, report, 100, lambda part: [sys.executable, "-c", commands[part.name]])
    assert time.monotonic() - start < 60
    wanted = {
        "good": "done",
        "bad": "FAILED: exit status 3",
        "hangs": "FAILED: ended after 2 s",
        "large": report.outcomes["large"],
        "last": "done",
    }
    assert report.outcomes == wanted and report.figures == {"a": 1}
    assert report.outcomes["large"].startswith("left out: it needs 1000 s, ")
    page = report.page_path.read_text()
    assert "| part 'hangs' | FAILED: ended after 2 s |" in page and "| a | 1 |" in page
    capfd.readouterr()
    run_parts(parts[:2], report, 100, lambda part: [sys.executable, "-c", "pass"])  # the same command again
    assert report.outcomes == {**wanted, "bad": "done"}
    assert capfd.readouterr().out.startswith("good: done before\nbad: done, ")
    time.sleep(max(0.0, 8 - (time.monotonic() - start)))
    assert not alive.exists()


def test_lines_verdicts_and_page(tmp_path: Path) -> None:
    report = Report(tmp_path / "out.jsonl")
    assert (report.lines(), report.figures, report.outcomes) == ([], {}, {})
    report.add("one", figure="x / share", value=52.04)
    report.add("one", figure="y / share", value=51.94)
    report.add("one", figure="runs", value={"loss": 0.12345, "tokens": 123456.7})
    report.add("one", check="it holds", holds=True)
    report.add("two", check="it does not", holds=False)
    report.add("two", outcome="FAILED: exit status 1", seconds=1.5)
    report.add("one", outcome="done", seconds=2.5)
    with open(report.path, "a") as file:
        file.write('{"part": "one", "figure": "x / sh')  # ended while it wrote
    goals = [Goal(name, f"{name} / share", 52.0) for name in ("x", "y", "z")]
    assert (
        report.write_page(goals)
        == report.page_path.read_text()
        == (
            "# GPU check\n\n| verdict | |\n|---|---|\n"
            "| it holds | ok |\n"
            "| it does not | FAILED |\n"
            "| x: at least 52% of the rate of matrix products | met, 52.0% |\n"
            "| y: at least 52% of the rate of matrix products | MISSED, 51.9% |\n"
            "| z: at least 52% of the rate of matrix products | not measured |\n"
            "| part 'two' | FAILED: exit status 1 |\n"
            "\n| figure | |\n|---|---|\n"
            "| x / share | 52.04 |\n| y / share | 51.94 |\n| runs | loss 0.1235, tokens 123,457 |\n"
        )
    )


def test_what_a_part_raises_is_a_failure(tmp_path: Path) -> None:
    def work(check: Check) -> None:
        raise ValueError("no such thing\nmore")

    report = Report(tmp_path / "out.jsonl")
    assert run_part(Part("odd", 0, 1, work), Check("cpu", tmp_path, report, "odd")) == 1
    assert report.checks == {"odd: ValueError: no such thing": False}


def test_parts_of_a_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Those that need least time to be shown most come first; no figure that a goal asks for is missing."""
    parts = parts_on("cuda")
    names = [part.name for part in parts]
    assert names[:4] == ["data", "rate", "suite", "training large bf16"] and len(set(names)) == len(names) == 21
    assert all(part.needs < part.limit <= 150 for part in parts)
    assert sum(part.needs for part in parts) <= 720
    timed = [name.split() for name in names if name.startswith(("training", "scoring"))]
    measured = {f"{kind} / {shape}, {dtype} / share" for kind, shape, dtype in timed}
    assert {goal.figure for goal in GOALS} == measured
    assert {part.name for part in parts_on("cpu")} == {n for n in names if not n.endswith("fp16") or n == "stable fp16"}
    with pytest.raises(SystemExit):
        main(["--device", "cpu", "--only", "speed", "--json", str(tmp_path / "a.jsonl")])
    assert "--only: there is no part speed; parts are data, rate, " in capsys.readouterr().err


@pytest.mark.parametrize("shape", SHAPES)
def test_operations_of_a_shape(shape: str) -> None:
    """A gated layer has a third product, a local one looks at so many tokens at most, the last one reads few."""
    architecture = Architecture(**SHAPES[shape], max_positions=POSITIONS)
    lengths, reads = [5, 17, 40, 512], [1, 0, 3, 9]
    width, inner = architecture.encoder_embed_dim, architecture.encoder_ffn_embed_dim
    expected = 2 * width * width * 13 + 2 * width * 30
    for layer in range(architecture.encoder_layers):
        products = 2 * width * width + (3 if architecture.gated else 2) * width * inner
        asking = reads if layer == architecture.encoder_layers - 1 else lengths
        for length, read in zip(lengths, asking):
            seen = min(length, architecture.local_attention + 1) if architecture.is_local(layer) else length
            expected += 2 * length * 2 * width * width + 2 * read * products + 4 * width * read * seen
    assert shape_flops(architecture, lengths, reads, 30) == expected


def test_what_is_measured_in_a_process_runs(tmp_path: Path, data_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps that begin no command of their own; figures mean nothing here."""
    monkeypatch.setattr("gpu_measure.gemm_shapes", lambda *arguments, **options: [(64, 64, 64)])
    (tmp_path / "long").symlink_to(data_bin)
    report = Report(tmp_path / "out.jsonl")
    check = Check("cpu", tmp_path, report, "small")
    measures: Any = Measures(check)
    measures.rate("tiny")
    for shape in ("tiny", "tiny modern"):
        measures.scoring(shape, "bf16")
    figures = report.figures
    for shape in ("tiny", "tiny modern"):
        share = 100 * figures[f"scoring / {shape}, bf16 / tflops"] / figures["rate / bf16 / tflops"]
        assert figures[f"scoring / {shape}, bf16 / share"] == pytest.approx(share) and share > 0
    assert [json.loads(line)["part"] for line in report.path.read_text().splitlines()] == ["small"] * len(figures)
