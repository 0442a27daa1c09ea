"""Preparation that was cut off and goes on: real processes, real signals."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial as partial_function
from pathlib import Path
from typing import Any

import psutil
import pytest

from fairseq_cloze.data import shards
from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.shards import EncodedShard, plan
from fairseq_cloze.errors import ClozeError, DataBinError

from ..support.commands import PASSAGES, run, start
from ..support.stores import as_lists

FOUR = ["calm", "cold", "old", "odd"]
COUNT = 3300


def line(**fields: Any) -> str:
    record = {"article": "It was _ . " * 20, "options": [FOUR] * 20, "answers": ["A"] * 20, **fields}
    return json.dumps(record) + "\n"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages of six shards or more."""
    path = tmp_path_factory.mktemp("source") / "big.jsonl"
    path.write_text("".join(line(id=f"p{number}", note="x" * 1000) for number in range(COUNT)))
    assert path.stat().st_size > 6 * shards.SHARD_BYTES
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, source: Path, pretrained: Path) -> dict[str, bytes]:
    """The data-bin of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("expected") / "bin"
    prepare({"train": [source], "valid": [PASSAGES / "valid"]}, pretrained, out, workers=1)
    return contents(out)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of some passages."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)


def command(source: Path, pretrained: Path, out: Path, workers: int) -> tuple[Any, ...]:
    return (
        *("fairseq-cloze", "prepare", "--train", source, "--valid", PASSAGES / "valid", "--pretrained", pretrained),
        *("--out", out, "--workers", workers),
    )


def done_shards(partial: Path) -> list[str]:
    return sorted(path.name for path in partial.glob("shards-*/*.npz"))


def wait_for_shards(process: Any, partial: Path, count: int) -> None:
    deadline = time.time() + 120
    while len(done_shards(partial)) < count:
        assert process.poll() is None and time.time() < deadline, process.communicate()
        time.sleep(0.005)


# -- cut off ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on(
    tmp_path: Path, source: Path, pretrained: Path, expected: dict[str, bytes], workers: int
) -> None:
    """``kill -9`` of the command alone: its workers end, nothing opens, and the same command goes on."""
    out, partial = tmp_path / "bin", tmp_path / "bin.partial"
    process = start(*command(source, pretrained, out, workers))
    wait_for_shards(process, partial, 2)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # returns when the last worker has closed its end
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert not out.exists()
    for folder in (out, partial, partial / "data-bin"):
        with pytest.raises(DataBinError):
            DataBin(folder)
    done, total = len(done_shards(partial)), sum(1 for _ in plan([(source, "big")])) + 1
    assert 2 <= done < total
    assert f"resuming: {done} of {total} shards were done\n" in run(*command(source, pretrained, out, 3 - workers)).text
    assert contents(out) == expected
    assert not partial.exists()


def test_ctrl_c(tmp_path: Path, source: Path, pretrained: Path, expected: dict[str, bytes]) -> None:
    out, partial = tmp_path / "bin", tmp_path / "bin.partial"
    heed = partial_function(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells have background jobs ignore it
    process = start(*command(source, pretrained, out, 2), start_new_session=True, preexec_fn=heed)
    wait_for_shards(process, partial, 1)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate()
    assert (process.returncode, text) == (
        130,
        f"Interrupted; what is done stays in {partial}, and the same command goes on from there\n",
    )
    assert run(*command(source, pretrained, out, 1)).text.startswith("resuming: ")
    assert contents(out) == expected


def test_a_killed_worker(tmp_path: Path, source: Path, pretrained: Path) -> None:
    out, partial = tmp_path / "bin", tmp_path / "bin.partial"
    process = start(*command(source, pretrained, out, 2))
    wait_for_shards(process, partial, 1)
    workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    workers[0].kill()
    text, _ = process.communicate()
    assert (process.returncode, text) == (
        1,
        f"Error: {out}: a worker was killed, maybe for want of memory; what is done stays in {partial}; "
        "give the same command again, with fewer --workers if memory is short\n",
    )
    assert len(done_shards(partial)) >= 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(small_disk: Path, source: Path, pretrained: Path, expected: dict[str, bytes]) -> None:
    out, partial = small_disk / "bin", small_disk / "bin.partial"
    assert run(*command(source, pretrained, out, 2), code=1).text == (
        f"Error: {out}: cannot be written (No space left on device); what is done stays in {partial}; "
        "free some space and give the same command again, or remove that folder\n"
    )
    assert list(small_disk.iterdir()) == [partial]
    done = len(done_shards(partial))
    assert done > 0
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    assert f"resuming: {done} of " in run(*command(source, pretrained, out, 2)).text
    assert contents(out) == expected


# -- what belongs to the same command --------------------------------------------------------------------------------


def cut_off(inputs: Any, pretrained: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    """Prepare until the end, where publishing fails as if the process had been cut off."""
    with monkeypatch.context() as patch:

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("fairseq_cloze.data.prepare.write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(inputs, pretrained, out, workers=1, **options)
    return done_shards(out.with_name(f"{out.name}.partial"))


def again(inputs: Any, pretrained: Path, out: Path, **options: Any) -> list[str]:
    """What a run tells of an earlier one."""
    told: list[str] = []
    prepare(inputs, pretrained, out, workers=1, tell=told.append, **options)
    return told


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("change", ["nothing", "options", "on_error", "content", "time", "file", "split"])
def test_only_the_same_command_goes_on(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder, out = tmp_path / "in", tmp_path / "bin"
    shutil.copytree(PASSAGES / "train", folder)
    inputs, options = {"train": [folder]}, {}
    done = cut_off(inputs, pretrained, out, monkeypatch)
    assert len(done) > 3
    some = sorted(folder.rglob("*.json"))[0]
    if change == "options":
        options = {"options": shards.EncodingOptions(sentence_case=True)}
    elif change == "on_error":
        options = {"on_error": "skip"}
    elif change == "content":
        some.write_text(line(id="changed"))
    elif change == "time":
        os.utime(some, (1, 1))
    elif change == "file":
        (folder / "new.json").write_text(line(id="new"))
    elif change == "split":
        inputs = {"test": [folder]}
    told = again(inputs, pretrained, out, **options)
    if change == "nothing":
        assert told == [f"resuming: {len(done)} of {len(done)} shards were done"]
    else:
        partial = tmp_path / "bin.partial"
        assert told == [f"starting over: {partial} was left by another command, other input or another version"]
    prepare(inputs, pretrained, tmp_path / "other", workers=1, **options)
    assert contents(out) == contents(tmp_path / "other")


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_shard_is_done_again(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, data_bin: Path
) -> None:
    """As a power cut leaves files: cut, empty, other bytes, and temporary ones."""
    inputs, out = {"train": [PASSAGES / "train"]}, tmp_path / "bin"
    total = len(cut_off(inputs, pretrained, out, monkeypatch))
    files = sorted((tmp_path / "bin.partial").glob("shards-*/*.npz"))
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-100])
    files[1].write_bytes(b"")
    files[2].write_bytes(content.replace(content[300:320], bytes(20)))
    files[3].rename(files[3].with_suffix(".npz.123"))
    encode, encoded = shards.ShardEncoder.encode, []

    def count(encoder: Any, shard: Any, target: Path, *args: Any) -> Any:
        encoded.append(target)
        return encode(encoder, shard, target, *args)

    monkeypatch.setattr(shards.ShardEncoder, "encode", count)
    assert again(inputs, pretrained, out) == [f"resuming: {total - 4} of {total} shards were done"]
    assert encoded == files[:4]
    assert as_lists(DataBin(out).open("train")) == as_lists(DataBin(data_bin).open("train"))


@pytest.mark.usefixtures("small_shards")
def test_input_that_changes_while_it_is_read(tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    shutil.copytree(PASSAGES / "train", folder)
    encode = shards.ShardEncoder.encode

    def change(*args: Any) -> Any:
        os.utime(sorted(folder.rglob("*.json"))[0], (1, 1))
        return encode(*args)

    monkeypatch.setattr(shards.ShardEncoder, "encode", change)
    with pytest.raises(ClozeError) as error:
        prepare({"train": [folder]}, pretrained, tmp_path / "bin", workers=1)
    assert str(error.value) == "the input was changed while it was read; nothing was kept, run the command again"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("small_shards")
def test_input_that_is_away_for_one_call(tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done stays, and the same command goes on when the input is back."""
    folder, out = tmp_path / "in", tmp_path / "bin"
    shutil.copytree(PASSAGES / "train", folder)
    done = cut_off({"train": [folder]}, pretrained, out, monkeypatch)
    folder.rename(tmp_path / "away")
    for found in ("no such file or folder", "expected a folder with .json or .jsonl files, found none"):
        with pytest.raises(ClozeError, match=f"^{folder}: {found}"):
            prepare({"train": [folder]}, pretrained, out, workers=1)
        folder.mkdir(exist_ok=True)
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    assert again({"train": [folder]}, pretrained, out) == [f"resuming: {len(done)} of {len(done)} shards were done"]


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_input_that_goes_while_it_is_read(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, on_error: str
) -> None:
    folder, out = tmp_path / "in", tmp_path / "bin"
    shutil.copytree(PASSAGES / "train", folder)
    encode, encoded = shards.ShardEncoder.encode, []

    def unmount(*args: Any) -> Any:
        encoded.append(args)
        if len(encoded) == 4:
            folder.rename(tmp_path / "away")
        return encode(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardEncoder, "encode", unmount)
        with pytest.raises(ClozeError) as error:
            prepare({"train": [folder]}, pretrained, out, workers=1, on_error=on_error)
    assert str(error.value).endswith(
        f"; check the file; what is done stays in {out}.partial; give the same command again when the file can be read"
        + (", or pass --on-error skip" if on_error == "stop" else "")
    )
    (tmp_path / "away").rename(folder)
    [told] = again({"train": [folder]}, pretrained, out, on_error=on_error)
    assert told.startswith("resuming: 3 of ")
    assert DataBin(out).splits["train"]["skipped"] == 0


def test_a_data_bin_inside_the_input(tmp_path: Path, pretrained: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(PASSAGES / "train", folder)
    for out in (folder / "bin", folder / "deep" / "bin"):
        with pytest.raises(ClozeError) as error:
            prepare({"train": [folder]}, pretrained, out, workers=1)
        assert str(error.value) == f"{out}: lies inside {folder}, whose passages are read; choose an --out outside it"
        assert not out.parent.joinpath("bin.partial").exists()


# -- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
def test_shards_are_parts_of_the_input(tmp_path: Path, pretrained: Path) -> None:
    """Plain and gzipped JSONL and documents, cut or not, give the same passages, sources and numbers of lines."""
    text = "\n" + "".join(line(answers=[number % 4] * 20) + "\n" * (number % 3) for number in range(40))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text(text.rstrip("\n"))
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.write(text)
    for number in range(5):
        (folder / f"c{number}.json").write_text(line())
    (folder / "d.jsonl").write_bytes(b"")
    numbers = [number for number, each in enumerate(text.split("\n"), 1) if each]
    ids = [*(f"{name}:{number}" for name in "ab" for number in numbers), *(f"c{number}" for number in range(5))]
    cut = list(plan(shards_files(folder)))
    assert len(cut) > 20 and max(map(len, cut)) <= 4
    prepare({"train": [folder]}, pretrained, tmp_path / "cut", workers=2)
    store = DataBin(tmp_path / "cut").open("train")
    assert [store.id(number) for number in range(len(store))] == ids
    assert store.columns["gold"].tolist() == [n % 4 for _ in "ab" for n in range(40) for _ in range(20)] + [0] * 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 1 << 30)
        prepare({"train": [folder]}, pretrained, tmp_path / "whole", workers=1)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def shards_files(folder: Path) -> Any:
    from fairseq_cloze.passages.reading import find_files

    return find_files(folder)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_a_damaged_file_is_named_and_its_sound_lines_count(tmp_path: Path, pretrained: Path, name: str) -> None:
    whole = gzip.compress("".join(line(id=f"p{number} {os.urandom(20).hex()}") for number in range(200)).encode())
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.jsonl").write_text(line(id="b"))
    inputs = {"train": [tmp_path / name, tmp_path / "b.jsonl"]}
    [report] = prepare(inputs, pretrained, tmp_path / "bin", workers=1, on_error="skip")
    assert report.read == report.tally.passages + 1
    assert (report.tally.passages > 20) == (name == "a.jsonl.gz")
    [(source, reason)] = report.tally.skipped
    assert source == str(tmp_path / name) and reason.startswith("cannot be read (")


# -- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("first", "second", "equal_digests"), [(3, 4, False), (0, 1, False), (2, 27, False), (2, 27, True)]
)
def test_an_id_that_occurs_twice(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int, equal_digests: bool
) -> None:
    """In a shard or in two, also when the digests of different ids are equal."""
    if equal_digests:
        monkeypatch.setattr(shards, "id_digest", lambda passage_id: len(passage_id))
    path, out = tmp_path / "a.jsonl", tmp_path / "bin"
    names = [f"p{number}" for number in range(30)]
    path.write_text("".join(line(id=name) for name in names))
    prepare({"train": [path]}, pretrained, out, workers=1)
    names[second] = names[first]
    path.write_text("".join(line(id=name) for name in names))
    with pytest.raises(ClozeError) as error:
        prepare({"train": [path]}, pretrained, out, workers=1, overwrite=True)
    assert str(error.value) == (
        f"{path}, line {second + 1}: passage id 'p{first}' is taken by {path}, line {first + 1}; "
        "give each passage its own 'id', or pass the folder above both"
    )
    assert not (tmp_path / "bin.partial").exists()


def test_a_shard_gives_back_ids_and_sources(tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ä.jsonl"
    path.write_text(line(id="é/1") + line(id="") + line())
    cut_off({"train": [path]}, pretrained, tmp_path / "bin", monkeypatch)
    [file] = (tmp_path / "bin.partial").glob("shards-*/*.npz")
    names = ["é/1", "", "ä:3"]
    assert EncodedShard(file).ids() == [(name, f"{path}, line {n}") for n, name in enumerate(names, 1)]
