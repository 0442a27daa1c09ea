"""``scripts/bench``, with as little work as there can be: every contestant runs, times mean nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from .support.commands import BIN, PASSAGES, ROOT, run, start

sys.path.insert(0, str(ROOT / "scripts"))
import bench
import bench_page
import bench_peers
from bench_measure import Others, Rates, evenly
from bench_worker import Worker, WorkerError

PAGE = ROOT / "docs" / "benchmarks.md"
DTYPES = ("float32", "bfloat16")


def write_pairs(folder: Path) -> Path:
    """Eight passages with two candidates a blank, as fairseq's commands run once for each."""
    folder.mkdir()
    for file in sorted((PASSAGES / "train").glob("*.json"))[:8]:
        record = json.loads(file.read_text())
        gold = ["ABCD".index(answer) for answer in record["answers"]]
        record["options"] = [[row[right], row[right - 1]] for row, right in zip(record["options"], gold)]
        (folder / file.name).write_text(json.dumps({**record, "answers": ["A"] * len(gold)}))
    return folder


def measured(page: Path) -> str:
    """What stands between the marks of a page, whose other text is that of ours."""
    before, _, rest = PAGE.read_text().partition(bench_page.BEGIN)
    _, end, after = rest.partition(bench_page.END)
    written = page.read_text()
    assert written.startswith(before) and written.endswith(after) and end
    return written[len(before) + len(bench_page.BEGIN) : len(written) - len(after) - len(end)].strip()


# -- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench(tmp_path: Path, pretrained: Path) -> None:
    page, out = tmp_path / "page.md", tmp_path / "bench.json"
    commit = run("git", "rev-parse", "--short", "HEAD").text.strip()
    page.write_text(PAGE.read_text())
    options = ("--weights", pretrained, "--passages", write_pairs(tmp_path / "pairs"), "--limit", "2", "--rounds", "1")
    options += ("--threads", "1", "--minutes", "0.1", "--against", "HEAD", "--json", out, "--write", page)
    ran = run("bash", ROOT / "scripts" / "bench", *options, env={"VENV": str(BIN.parent)})

    result = json.loads(out.read_text())
    assert result["command"].startswith("scripts/bench --weights")
    assert result["complete"] and result["skipped"] == {} and result["against"] == commit
    assert {"processor", "cores", "torch", "others", "load"} <= set(result["machine"])
    assert result["machine"]["threads"] == 1
    scoring, training, prepared = result["scoring"], result["training"], result["prepare"]
    ours = ("ours", f"ours at {commit}")
    both = {f"{who} {dtype}" for who in (*ours, "transformers", "gemm") for dtype in DTYPES}
    int8 = {f"{who} int8" for who in ours}
    assert set(scoring["rates"]) == {*both, *int8, "sentence_ranking float32", "multiple-choice float32"}
    assert set(training["rates"]) == both
    assert set(prepared["rates"]) == {
        f"{who} {what}" for who in (*ours, "sentence_ranking") for what in ("commands", "encoding")
    }
    for part in (scoring, training, prepared):
        assert part["rounds"] == 1
        for rate in part["rates"].values():
            assert len(rate["rounds"]) == len(rate["busy"]) == 1 and 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert scoring["passages"] == 2 and scoring["agreement"]["transformers float32"] >= 0.995
    assert scoring["agreement"]["transformers bfloat16"] > 0.8
    assert scoring["filled"]["agreement"] >= 0.5 and scoring["peers"]["sentence_ranking"]["blanks"] == 2
    for part in (scoring, training):
        assert 0 <= part["padding"] < 50 and part["tokens"] > 0 and part["flops_per_token"] > 0
        rate = part["rates"]["ours float32"]["median"] / (part["blanks"] if part is scoring else part["tokens"])
        assert abs(part["flops"]["float32"]["median"] / (rate * part["flops_per_token"] * part["tokens"]) - 1) < 1e-6
        share = part["flops"]["float32"]["median"] / part["rates"]["gemm float32"]["median"]
        assert abs(part["utilisation"]["float32"]["median"] / share - 1) < 1e-6
    assert prepared["passages"] == 8 and prepared["texts"] % 2 == 0

    block = measured(page)
    assert result["command"] in block and "### Scoring" in block and "### Preparation" in block
    assert "Incomplete" not in block and block.count("```") == 2 and "<!--" not in block
    assert f"| scoring, blanks/s, float32: over ours at {commit} | " in block
    assert block in ran.text


def test_stopped_halfway(tmp_path: Path, pretrained: Path) -> None:
    """It keeps what it has measured, says so on the page, and leaves no process."""
    page, out = tmp_path / "page.md", tmp_path / "new" / "bench.json"
    page.write_text(PAGE.read_text())
    options = ("--weights", pretrained, "--passages", write_pairs(tmp_path / "pairs"), "--limit", "2", "--peers", "")
    options += ("--threads", "1", "--only", "scoring", "--rounds", "100000", "--json", out, "--write", page)
    env = {"VENV": str(BIN.parent)}
    process = start("bash", ROOT / "scripts" / "bench", *options, env=env, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out.exists() and "ours bfloat16" in out.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate()
    assert process.returncode == 130
    assert re.search(rf"stopped after \d+:\d\d: the figures so far are in {out}\n\Z", text)
    result = json.loads(out.read_text())
    assert not result["complete"] and result["scoring"]["rates"]["ours float32"]["rounds"]
    block = measured(page)
    assert block.startswith("**Incomplete**: stopped, or still running, after ")
    assert f"| ours | {result['scoring']['rates']['ours float32']['median']:,.2f}" in block
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# -- what it is made of ----------------------------------------------------------------------------------------------


def result_of(**parts: Any) -> dict[str, Any]:
    """A result with little in it."""
    machine = {"processor": "CPU", "vector_instructions": "AVX2", "threads": 2}
    machine |= {"torch": "2.13.0", "fairseq": "0.12.3", "transformers": "4.57.6"}
    shape = {"encoder_layers": 6, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072, "max_positions": 512}
    about = {"command": "scripts/bench --minutes 1", "date": "2026-11-29", "complete": True, "seconds": 90.0}
    return {**about, "machine": machine, "weights": "roberta6", "architecture": shape, "skipped": {}, **parts}


def test_the_page() -> None:
    rates = {
        "ours float32": Rates([20.0, 30.0, 31.0], [0.0, 0.0, 0.0]),
        "ours int8": Rates([80.0, 90.0, 100.0], [0.0, 0.0, 0.0]),
        "transformers==5.1.0 float32": Rates([10.0, 10.0, 10.0], [0.0, 0.2, 0.0]),
        "transformers==5.1.0 bfloat16": Rates([20.0, 20.0, 20.0], [0.0, 0.0, 0.0]),
        "sentence_ranking float32": Rates([0.25, 0.25], [0.0, 0.0]),
    }
    ways = {"float32": ["float32", 4], "bfloat16": ["autocast", 8]}
    part = {"passages": 2, "rows": 2, "blanks": 30, "tokens": 600, "rounds": 3, "rates": rates, "utilisation": {}}
    part |= {"peers": {"transformers==5.1.0": {"version": "transformers 5.1.0", "ways": ways}}}
    text = bench_page.render(result_of(complete=False, scoring=part, skipped={"minicons": "no such package"}))
    assert text.split("```")[0] == (
        "**Incomplete**: stopped, or still running, after 1.5 minutes.\n\n"
        "2026-11-29, CPU (AVX2), 2 threads, torch 2.13.0, fairseq 0.12.3, transformers 4.57.6.\n"
        "Weights `roberta6`: 6 layers of 768, feed-forward 3,072, 512 positions.\n"
        "Medians of rounds (3 of scoring), in brackets the slowest and the fastest. 1.5 minutes in all.\n"
        "\\* In a round of this, others took more than 5% of the machine's CPUs.\n"
        "Without minicons: no such package\n\n"
    )
    lines = text.split("```")[2].split("\n")
    assert lines[2:18] == [
        "| | measured | goal |",
        "|---|---|---|",
        "| scoring, blanks/s, float32: over transformers 5.1.0 | 3.00 (2.00 to 3.10)\\* times | at least 2.6 |",
        "| scoring, blanks/s, int8: over transformers 5.1.0 in bfloat16 | 4.50 (4.00 to 5.00) times | at least 3.5 |",
        "| scoring, blanks/s, float32: over fairseq's `sentence_ranking` "
        "| 100.00 (80.00 to 120.00) times | at least 75 |",
        "",
        "### Scoring",
        "",
        "2 passages of all lengths: 30 blanks, 600 tokens in 2 rows.",
        "",
        "| blanks/s | float32 | ours is faster by | bfloat16 | ours is faster by |",
        "|---|---|---|---|---|",
        "| ours | 30.00 (20.00 to 31.00) |  |  |  |",
        "| transformers 5.1.0 | 10.00 (10.00 to 10.00)\\* | 3.00 (2.00 to 3.10)\\* | 20.00 (20.00 to 20.00) |  |",
        "| fairseq's `sentence_ranking` | 0.25 (0.25 to 0.25) | 100.00 (80.00 to 120.00) |  |  |",
        "",
    ]
    assert lines[18] == "In int8 ours makes 90.0 (80.0 to 100.0) blanks/s."


def test_a_page_without_a_place_for_figures(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    with pytest.raises(
        SystemExit, match=r"page\.md: expected the lines '<!-- figures.*' and '<!-- end of figures -->'"
    ):
        bench_page.write_block(page, "figures")
    assert page.read_text() == "# Page\n"


def test_what_others_take_is_seen() -> None:
    code = "import time\nwhile True: pass"
    busy = subprocess.Popen([sys.executable, "-c", code])
    try:
        with Others([]) as others:
            time.sleep(0.6)
        with Others([busy.pid]) as ours:
            time.sleep(0.6)
    finally:
        busy.kill()
        busy.wait()
    assert Rates([1.0], [others.share]).disturbed and 0 <= ours.share <= 1
    assert Rates([1.0], [0.04]).over(Rates([1.0], [0.06])).disturbed and not Rates([1.0], [0.04]).disturbed


def test_ratios_are_within_rounds() -> None:
    ratios = Rates([10.0, 40.0, 30.0]).over(Rates([5.0, 10.0]))
    assert ratios.rounds == [2.0, 4.0] and ratios.median == 3.0


def test_evenly() -> None:
    assert evenly(range(10), 2) == [2, 7] and evenly(range(3), 1) == [1] and evenly([1, 2], 5) == [1, 2]


def test_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It measures what it builds; a failure is a line, and what it prints does not disturb."""
    (tmp_path / "toy.py").write_text(
        "from bench_measure import Built, Contestant, Work\n"
        "def make(job):\n"
        "    print('noise')\n"
        "    take = lambda size: Work(lambda: [job['answer']] * size, 2 * size)\n"
        "    return Built({'float32': Contestant.warmed(take, 'passages', 1, 'cpu')}, {'version': 'toy 1'})\n"
        "def fail(job):\n"
        "    raise ValueError('no\\n  way')\n"
        "def die(job):\n"
        "    import os\n"
        "    os.write(2, b'out of memory\\n')\n"
        "    os._exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker(Path(sys.executable), None, 1, tmp_path / "log")
    try:
        built = worker.ask("build", function="toy:make", who="toy", job={"answer": 3})
        assert list(built["contestants"]) == ["toy float32"] and built["facts"] == {"version": "toy 1"}
        found = worker.ask("run", contestant="toy float32", size=2)
        assert found["rate"] == pytest.approx(4 / found["seconds"])
        assert worker.ask("found", contestant="toy float32") == [3, 3]
        with pytest.raises(WorkerError, match="^ValueError: no way$"):
            worker.ask("call", function="toy:fail", job={})
        with pytest.raises(WorkerError, match="^its process ended with status 3: out of memory$"):
            worker.ask("call", function="toy:die", job={})
    finally:
        worker.stop()


def test_another_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files, with nothing of the repository changed; a name that is no commit is refused."""
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*command: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        ran = subprocess.run(["git", *who, *command], cwd=repository, capture_output=True, text=True, check=True)
        return ran.stdout

    git("init", "-q")
    for text in ("old", "new"):
        (repository / "file").write_text(text)
        git("add", "file")
        git("commit", "-q", "-m", text)
    monkeypatch.setattr(bench, "ROOT", repository)
    assert bench.checkout("HEAD~1", tmp_path / "old") == git("rev-parse", "--short", "HEAD~1").strip()
    assert (tmp_path / "old" / "file").read_text() == "old" and (repository / "file").read_text() == "new"
    assert git("status", "--porcelain") == "" and len(git("worktree", "list").splitlines()) == 1
    with pytest.raises(SystemExit, match=f"^--against: expected a commit of {repository}, found HEAD~2$"):
        bench.checkout("HEAD~2", tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--peers", "bert"],
            "--peers: expected some of transformers, sentence_ranking, multiple-choice, cross-encoder, "
            "minicons, the version behind '==', found bert",
        ),
        (
            ["--peers", "sentence_ranking==1"],
            "--peers: sentence_ranking comes with fairseq and has no version of its own, found sentence_ranking==1",
        ),
        (["--only", "scoring,speed"], "--only: expected some of scoring, training, prepare, found scoring,speed"),
    ],
)
def test_options_that_mean_nothing(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    with pytest.raises(SystemExit):
        bench.main()
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


def test_where_a_peer_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, if it is here in the version that is asked for; and else in its own environment, which is made once."""
    assert bench_peers.interpreter("transformers") == Path(sys.executable)
    assert bench_peers.interpreter(f"transformers=={version('transformers')}") == Path(sys.executable)
    monkeypatch.setattr(bench_peers, "ENVIRONMENTS", tmp_path)
    folder = tmp_path / "transformers==1.2"
    folder.mkdir()
    (folder / "installed").touch()
    assert bench_peers.interpreter("transformers==1.2") == folder / "bin" / "python"


@pytest.mark.slow
def test_an_environment_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's reason; without network, too."""
    monkeypatch.setattr(bench_peers, "ENVIRONMENTS", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(OSError, match="No matching distribution found for minicons==1.2.3"):
        bench_peers.interpreter("minicons==1.2.3")
    assert not (tmp_path / "minicons==1.2.3" / "installed").exists()
