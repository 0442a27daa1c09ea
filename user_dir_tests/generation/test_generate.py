from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.errors import CheckpointError, ClozeError
from fairseq_cloze.files import UNFINISHED
from fairseq_cloze.generation.generate import (
    GenerateTally,
    _default_workers,
    _temporary_folder,
    generate,
    generate_passages,
)
from fairseq_cloze.generation.maker import balanced
from fairseq_cloze.generation.prose import TEMPORARY, Cutter, find_texts, read_chunks
from fairseq_cloze.generation.slots import WORDS_PER_BLANK
from fairseq_cloze.passages.passage import LETTERS
from fairseq_cloze.passages.reading import Tally, read_passages
from fairseq_cloze.passages.text import BLANK

from ..support.commands import ROOT, run, start


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, prose: Path) -> Path:
    out = tmp_path_factory.mktemp("made") / "passages.jsonl"
    generate([prose], out, workers=1)
    return out


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_passages_are_passages_and_hold_the_text(prose: Path, made: Path) -> None:
    tally = Tally()
    passages = list(read_passages([made], tally=tally))
    texts = {excerpt.id: excerpt.text for chunk in read_chunks(find_texts([prose])) for excerpt in Cutter().cut(chunk)}
    assert len(passages) == len(texts) > 25 and not tally.skipped and tally.labelled == tally.blanks
    for passage in passages:
        segments = BLANK.split(passage.article)
        fills = [options[gold] for options, gold in zip(passage.candidates, passage.gold)]
        filled = "".join(part for pair in zip(segments, [*fills, ""]) for part in pair)
        assert filled == texts[passage.id]
        assert "\n\n" in filled and segments[0].count(" ") > 2
        assert all(len(set(options)) == 4 for options in passage.candidates)
        assert all(re.fullmatch("[A-Z]?[a-z]+|I", option) for options in passage.candidates for option in options)
        assert all(len({option[0].isupper() for option in options}) == 1 for options in passage.candidates)
        density = len(texts[passage.id].split()) / len(fills)
        assert 0.9 * WORDS_PER_BLANK < density < 1.8 * WORDS_PER_BLANK
        counts = Counter(passage.gold)
        assert max(counts.values()) - min(counts[letter] for letter in range(4)) <= 1


def test_counts_are_exact(prose: Path, made: Path) -> None:
    tally = GenerateTally()
    passages = list(generate_passages([prose], workers=1, tally=tally))
    assert passages == records(made)
    assert tally.passages == len(passages) and tally.blanks == sum(len(passage["answers"]) for passage in passages)
    assert 0.6 < tally.content / tally.blanks < 0.72
    assert tally.excerpts == tally.passages + sum(tally.dropped.values())
    assert tally.lines()[0].startswith(f"{len(passages):,} passages, {tally.blanks:,} blanks (")


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path, prose: Path, made: Path) -> None:
    generate([prose], tmp_path / "out.jsonl", workers=3)
    assert (tmp_path / "out.jsonl").read_bytes() == made.read_bytes()


def test_seed_and_compression(tmp_path: Path, prose: Path, made: Path) -> None:
    generate([prose], tmp_path / "again.jsonl.gz", workers=1)
    first = (tmp_path / "again.jsonl.gz").read_bytes()
    assert gzip.decompress(first) == made.read_bytes()
    generate([prose], tmp_path / "again.jsonl.gz", workers=1)
    assert (tmp_path / "again.jsonl.gz").read_bytes() == first
    generate([prose], tmp_path / "other.jsonl", seed=2, workers=1)
    ours, others = records(made), records(tmp_path / "other.jsonl")
    assert [passage["id"] for passage in ours] == [passage["id"] for passage in others]
    assert all(one["article"] != other["article"] for one, other in zip(ours, others))


def test_limit_is_spread_evenly(prose: Path, made: Path) -> None:
    tally = GenerateTally()
    some = list(generate_passages([prose], workers=1, limit=5, tally=tally))
    every = records(made)
    assert len(some) == 5 and all(passage in every for passage in some)
    places = [every.index(passage) for passage in some]
    assert all(later - earlier > len(every) / 10 for earlier, later in zip(places, places[1:])), places
    assert tally.dropped == {"beyond --limit": len(every) - 5}


def test_the_command(tmp_path: Path, prose: Path, made: Path) -> None:
    text = (prose / "train.txt").read_text() + "THE OLD MAN CAME BACK.\n"
    (tmp_path / "stdin.txt").write_text(text)
    with open(tmp_path / "stdin.txt") as source:
        ran = run("fairseq-cloze", "generate", "-", "--out", tmp_path / "a.jsonl", "--workers", "1", stdin=source)
    lines = [line for line in ran.text.splitlines() if "B/s" not in line]
    blanks = sum(len(passage["answers"]) for passage in records(tmp_path / "a.jsonl"))
    assert re.match(rf"\d+ passages, {blanks} blanks \(\d+\.\d% content words, \d+\.\d% function words\)", lines[-3])
    assert re.match(r"skipped 0 of \d+ texts; \d+ paragraphs or parts of them \(.*\b1 capitals\)$", lines[-2])
    assert lines[-1] == f"wrote {tmp_path}/a.jsonl"
    assert records(tmp_path / "a.jsonl")[0]["id"] == "stdin:1"


def test_errors(tmp_path: Path, prose: Path, pretrained: Path) -> None:
    with pytest.raises(ClozeError) as error:
        generate([prose], tmp_path / "out.json")
    assert str(error.value) == (
        f"{tmp_path}/out.json: expected a name that ends in .jsonl or .jsonl.gz, found 'out.json'; rename --out"
    )
    (tmp_path / "t.txt").write_text("CHAPTER ONE\n\n1. One\n")
    with pytest.raises(ClozeError) as error:
        generate([tmp_path / "t.txt"], tmp_path / "out.jsonl", workers=1)
    assert str(error.value) == (
        f"{tmp_path}/t.txt: expected English prose, found nothing to make passages of "
        "(0 passages, 0 blanks (0.0% content words, 0.0% function words); "
        "skipped 0 of 0 texts; 2 paragraphs or parts of them (1 heading, 1 verse or list)); "
        "paragraphs are lines, or stand between blank lines"
    )
    with pytest.raises(CheckpointError, match=f"^--lm {tmp_path}/no.pt: "):
        generate([prose], tmp_path / "out.jsonl", workers=1, lm=tmp_path / "no.pt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ClozeError, match="latin.txt, line 1: expected UTF-8 text, found byte 0xe9"):
        generate([tmp_path / "latin.txt"], tmp_path / "out.jsonl", workers=2)
    assert not list(tmp_path.glob("out.jsonl*"))


def test_errors_of_standard_input_and_of_the_temporary_folder(
    tmp_path: Path, prose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for inputs, message in (
        (["-"], "Error: standard input, line 1: expected UTF-8 text, found byte 0xe9; convert the file"),
        (["-", "-"], "Error: standard input: given twice; give it once"),
    ):
        with open(tmp_path / "latin.txt") as source:
            ran = run("fairseq-cloze", "generate", *inputs, "--out", out, "--workers", "1", stdin=source, code=1)
        assert message in ran.text

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(ClozeError) as error:
        generate([prose], out, workers=1)
    assert re.fullmatch(
        r"the temporary folder .*/fairseq-cloze-generate\..*: cannot be written \(No space left on device\); "
        "set TMPDIR to a folder with more room",
        str(error.value),
    )


def test_two_generators_at_once(prose: Path) -> None:
    alone = [list(generate_passages([prose / f"{split}.txt"], workers=1)) for split in ("train", "valid")]
    both = [generate_passages([prose / f"{split}.txt"], workers=1) for split in ("train", "valid")]
    mixed: list[list[dict[str, Any]]] = [[], []]
    for pair in zip_longest(*both):
        for kept, passage in zip(mixed, pair):
            kept += [passage] if passage is not None else []
    assert mixed == alone


@pytest.mark.slow
def test_a_script_without_a_guard_says_so(tmp_path: Path, prose: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from fairseq_cloze.generation.generate import generate\n"
        f"generate([{str(prose)!r}], {str(tmp_path / 'out.jsonl')!r}, workers=2)\n"
    )
    ran = run(sys.executable, script, cwd=ROOT, code=1)
    assert "ClozeError: generate: a worker process died (out of memory, or a script without if __name__" in ran.text


def test_workers_are_ended_when_broken_off(prose: Path) -> None:
    passages = generate_passages([prose], workers=2)
    next(passages)
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    began = time.monotonic()
    passages.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5
    _, alive = psutil.wait_procs(workers, 5)
    assert not alive


def test_one_worker_by_default_where_a_model_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert _default_workers("model.pt") == 1 <= _default_workers(None) == len(os.sched_getaffinity(0))


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_interrupted(tmp_path: Path, prose: Path, sent: signal.Signals) -> None:
    """A run that is broken off keeps nothing under its name and leaves no worker behind."""
    (tmp_path / "long.txt").write_text((prose / "train.txt").read_text() * 30)
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    process = start("fairseq-cloze", "generate", tmp_path / "long.txt", "--out", out, "--workers", "2")
    while not any(path.stat().st_size for path in tmp_path.glob(f"{UNFINISHED}*")):
        assert process.poll() is None
        time.sleep(0.05)
    workers = children_of(process)
    process.send_signal(sent)
    text, _ = process.communicate()
    assert out.read_text() == "old\n"
    if sent == signal.SIGINT:
        message = f"Error: {out}: interrupted, nothing was kept; the same command makes the same passages again\n"
        assert process.returncode == 130 and text.endswith(message) and "Traceback" not in text
        assert not list(tmp_path.glob(f"{UNFINISHED}*"))
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_what_a_killed_run_left_is_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that: not what a living run needs, nor what others made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "from fairseq_cloze.generation.generate import _temporary_folder\n"
        "with _temporary_folder() as folder: (folder / 'pairs.npy').write_text('x'); print(folder, flush=True); input()"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)},
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    folders = [Path(process.stdout.readline().strip()) for process in runs if process.stdout]
    runs[0].kill()
    runs[0].communicate()
    (tmp_path / f"{TEMPORARY}mine").write_text("a file")
    (tmp_path / "kept").mkdir()
    (tmp_path / f"{TEMPORARY}link").symlink_to(tmp_path / "kept")
    with _temporary_folder() as folder:
        found = {path.name for path in tmp_path.iterdir()}
    assert found == {folders[1].name, folder.name, f"{TEMPORARY}mine", f"{TEMPORARY}link", "kept"}
    assert (folders[1] / "pairs.npy").exists() and not folder.exists()
    runs[1].communicate("\n")
    assert runs[1].returncode == 0 and not folders[1].exists()


def test_a_file_whose_name_is_no_text(tmp_path: Path, prose: Path) -> None:
    text = tmp_path / os.fsdecode(b"caf\xe9.txt")
    text.write_bytes((prose / "valid.txt").read_bytes())
    generate([text], tmp_path / "out.jsonl", workers=1, limit=1)
    assert json.loads((tmp_path / "out.jsonl").read_text())["id"].startswith("caf\\udce9:")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path, prose: Path) -> None:
    code = (
        "import re, sys\n"
        "from fairseq_cloze.generation.generate import generate\n"
        "generate([sys.argv[1]], sys.argv[2], workers=1, limit=20)\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1)) // 1024)\n"
    )
    text = (prose / "train.txt").read_text()
    peaks = []
    for times in (100, 500):  # 4 MB and 22 MB
        (tmp_path / "t.txt").write_text(text * times)
        ran = run(sys.executable, "-c", code, tmp_path / "t.txt", tmp_path / "out.jsonl", cwd=ROOT)
        peaks.append(int(ran.text.split()[-1]))
    assert peaks[1] - peaks[0] < 16, peaks
    assert os.path.getsize(tmp_path / "t.txt") > 16 << 20


@given(st.integers(0, 60), st.integers(0, 999))
def test_answers_are_balanced(blanks: int, seed: int) -> None:
    places = balanced(blanks, random.Random(seed))
    counts = [places.count(letter) for letter in range(len(LETTERS[:4]))]
    assert len(places) == blanks and max(counts) - min(counts) <= 1


def test_answers_have_no_pattern() -> None:
    rng = random.Random(1)
    many = [balanced(18, rng) for _ in range(4000)]
    firsts = Counter(places[0] for places in many)
    assert all(0.22 < firsts[letter] / 4000 < 0.28 for letter in range(4))
    repeats = sum(one == other for places in many for one, other in zip(places, places[1:])) / (4000 * 17)
    assert 0.19 < repeats < 0.23  # chance where the letters are balanced: 0.21
