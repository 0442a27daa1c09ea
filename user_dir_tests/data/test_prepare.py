from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fairseq_cloze.data.prepare as prepare_module
from fairseq_cloze import __version__
from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.data.encoding import EncodingOptions
from fairseq_cloze.data.partial import Partial
from fairseq_cloze.data.prepare import passage_texts, prepare
from fairseq_cloze.errors import SKIP_HINT, ClozeError, DataBinError, PassageError
from fairseq_cloze.ranking.evaluate import evaluate

from ..support.commands import PASSAGES, ROOT, run, start
from ..support.stores import as_lists

FOUR = ["calm", "cold", "old", "odd"]


def test_counts_and_manifest(tmp_path: Path, data_bin: Path, vocabulary: Any) -> None:
    manifest = json.loads((data_bin / "manifest.json").read_text())
    splits = manifest.pop("splits")
    assert len(manifest.pop("digest")) == 64
    files = {**vocabulary.files, **vocabulary.fairseq_files()}  # fairseq's own three for its own tools
    assert {name: (data_bin / name).read_bytes() for name in files} == files
    assert manifest == {
        "format": "fairseq-cloze data-bin",
        "format_version": 3,
        "written_by": f"fairseq-cloze {__version__}",
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "vocabulary": {
            "rows": 600,
            "dictionary_digest": vocabulary.dictionary_digest,
            "tokenizer_digest": vocabulary.tokenizer_digest,
        },
        "encoding": {"text_norm": "standard", "sentence_case": False, "language": "en"},
    }
    counts = {name: {key: value for key, value in split.items() if key != "columns"} for name, split in splits.items()}
    tokens = {name: split.pop("tokens") for name, split in counts.items()}
    makeshift = {name: split.pop("makeshift_tokens") for name, split in counts.items()}
    assert counts == {
        name: {
            "read": passages,
            "passages": passages,
            "blanks": blanks,
            "labelled_blanks": blanks,
            "unknown_tokens": 0,
            "skipped": 0,
            "skipped_passages": [],
            "ignored_files": 0,
        }
        for name, passages, blanks in (("train", 32, 405), ("valid", 8, 102), ("test", 8, 98))
    }
    assert makeshift == {"train": 0, "valid": 0, "test": 0}
    assert tokens["train"] == splits["train"]["columns"]["tokens"]["entries"] > 10_000
    assert {path.name for path in data_bin.iterdir()} == {"manifest.json", *files, "test", "train", "valid"}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(tmp_path: Path, pretrained: Path, data_bin: Path, workers: int) -> None:
    prepare({"train": [PASSAGES / "train"]}, pretrained, tmp_path / "bin", workers=workers)
    assert as_lists(DataBin(tmp_path / "bin").open("train")) == as_lists(DataBin(data_bin).open("train"))


def test_order_over_many_chunks(tmp_path: Path, pretrained: Path) -> None:
    lines = [json.dumps({"article": f"Number {n} is _ .", "options": [FOUR], "answers": [n % 4]}) for n in range(1000)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    prepare({"train": [tmp_path / "many.jsonl"]}, pretrained, tmp_path / "bin", workers=2)
    store = DataBin(tmp_path / "bin").open("train")
    assert [store.id(number) for number in range(1000)] == [f"many:{number + 1}" for number in range(1000)]
    assert store.columns["gold"].tolist() == [number % 4 for number in range(1000)]


def test_command_and_report(tmp_path: Path, pretrained: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    lines: list[dict[str, Any]] = [{"article": "It was _ .", "options": [FOUR], "answers": ["A"]}] * 3
    lines[1] = {**lines[1], "answers": ["E"]}
    (source / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (source / "b.json").write_text(json.dumps({"article": "No gap.", "options": [], "answers": []}))
    (source / "notes.txt").write_text("not a passage")
    options = ("--pretrained", pretrained, "--out", tmp_path / "bin", "--workers", "1")
    problem = "blank 1, field 'answers': expected a letter A-D or a number 0-3 for 4 options, found \"E\""
    failed = run("fairseq-cloze", "prepare", "--train", source, *options, code=1)
    assert failed.text == f"Error: {source}/a.jsonl, line 2: {problem}; {SKIP_HINT}\n"
    assert not (tmp_path / "bin").exists() and not (tmp_path / "bin.partial").exists()
    done = run("fairseq-cloze", "prepare", "--train", source, "--on-error", "skip", *options)
    assert done.text.splitlines() == [
        "train: 4 passages, 2 blanks, 2 skipped, 1 files that are neither JSON nor JSONL ignored",
        f"  skipped {source}/a.jsonl, line 2: {problem}",
        f"  skipped {source}/b.json: no blank: the article holds no underscore",
        f"wrote {tmp_path / 'bin'}",
    ]
    entry = DataBin(tmp_path / "bin").splits["train"]
    assert (entry["read"], entry["passages"], entry["skipped"], entry["ignored_files"]) == (4, 2, 2, 1)
    assert [skipped["reason"] for skipped in entry["skipped_passages"]] == [
        problem,
        "no blank: the article holds no underscore",
    ]


def test_unlabelled_passages(tmp_path: Path, pretrained: Path, passage: Callable[..., Path]) -> None:
    path = passage("a.json", "It was _ .", [FOUR])
    for split in ("train", "valid"):
        with pytest.raises(PassageError) as error:
            prepare({split: [path]}, pretrained, tmp_path / "bin", workers=1)
        assert error.value.problem == "field 'answers': expected answers, as train and valid need them, found none"
    [report] = prepare({"test": [path]}, pretrained, tmp_path / "bin", workers=1)
    assert report.lines() == ["test: 1 passages, 1 blanks, 0 skipped, 1 blanks unlabelled"]


def test_answers_counted_from_1_are_not_shifted(tmp_path: Path, pretrained: Path) -> None:
    path = tmp_path / "one.jsonl"
    lines = [{"article": "It was _ .", "options": [FOUR], "answers": [answer]} for answer in (1, 2, 4, 3)]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(PassageError, match=r"line 3: .* if yours begin with 1, subtract 1 from each; mend"):
        prepare({"valid": [path]}, pretrained, tmp_path / "bin", workers=1)
    with pytest.raises(ClozeError) as error:
        prepare({"valid": [path]}, pretrained, tmp_path / "bin", workers=1, on_error="skip")
    assert str(error.value) == (
        f"{path}: expected answers counted from 0, found none that is 0, and one that is as high as the number of "
        f"options ({path}, line 3); subtract 1 from each, or write letters"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_skipped_costs_nobody_elses_work(tmp_path: Path, pretrained: Path) -> None:
    """Halves of characters in what is skipped, and names that are no text, reach the manifest."""
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/in\xff"))
    folder.mkdir()
    good = {"article": "It was _ .", "options": [FOUR], "answers": ["A"]}
    odd = [{**good, "answers": ["\ud800"]}, {**good, "id": "\udcff"}, {**good, "options": [["\ud83d", "b"]]}]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, [good, *odd])))
    done = run(
        *("fairseq-cloze", "prepare", "--train", folder, "--pretrained", pretrained, "--on-error", "skip"),
        *("--out", tmp_path / os.fsdecode(b"bin\xe9"), "--workers", "2"),
    )
    assert done.text.splitlines()[0] == "train: 4 passages, 1 blanks, 3 skipped"
    entry = DataBin(tmp_path / os.fsdecode(b"bin\xe9")).splits["train"]
    assert [skipped["source"] for skipped in entry["skipped_passages"]] == [
        f"{tmp_path}/in\\xff/a.jsonl, line {number}" for number in (2, 3, 4)
    ]


def test_options_are_recorded(tmp_path: Path, pretrained: Path, passage: Callable[..., Path]) -> None:
    path = passage("a.json", "_ it rained .", [FOUR], ["A"])
    options = EncodingOptions(text_norm="none", sentence_case=True)
    prepare({"train": [path]}, pretrained, tmp_path / "bin", options, workers=1)
    data = DataBin(tmp_path / "bin")
    assert data.encoding == options
    item = data.open("train")[0]
    assert data.vocabulary.decode(item.tokens) == "<mask> it rained ."
    assert data.vocabulary.decode(item.candidates[0][0]) == "Calm"


def test_ranks_are_kept(tmp_path: Path, pretrained: Path, passage: Callable[..., Path]) -> None:
    path = passage("a.json", "It was _ .", [FOUR], ranks=[[0, 3, 1, 0.5]])
    prepare({"train": [path]}, pretrained, tmp_path / "bin", workers=1)
    columns = DataBin(tmp_path / "bin").open("train").columns
    assert (columns["candidate_rank"].tolist(), columns["gold"].tolist()) == ([0, 3, 1, 0.5], [1])


def test_nothing_of_a_split_can_be_used(tmp_path: Path, pretrained: Path, passage: Callable[..., Path]) -> None:
    path = passage("a.json", "No gap.", [])
    with pytest.raises(ClozeError) as error:
        prepare({"train": [path]}, pretrained, tmp_path / "bin", workers=1)
    assert str(error.value) == (
        f"{path}: expected passages for the train split, found none that can be used "
        f"(train: 1 passages, 0 blanks, 1 skipped;   skipped {path}: no blank: the article holds no underscore)"
    )


def test_empty_folder(tmp_path: Path, pretrained: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run(
        *("fairseq-cloze", "prepare", "--train", tmp_path / "empty", "--pretrained", pretrained),
        *("--out", tmp_path / "bin"),
        code=1,
    )
    assert done.text == (
        f"Error: {tmp_path / 'empty'}: expected a folder with .json or .jsonl files, found none; check the path\n"
    )


def test_an_existing_folder_is_not_touched(tmp_path: Path, pretrained: Path) -> None:
    out = tmp_path / "bin"
    out.mkdir()
    (out / "precious.txt").write_text("keep")
    inputs = {"train": [PASSAGES / "train"]}
    with pytest.raises(ClozeError) as error:
        prepare(inputs, pretrained, out, workers=1)
    assert str(error.value) == (f"{out}: already exists; choose another --out, or pass --overwrite to replace it")
    with pytest.raises(DataBinError, match="expected a data-bin, found no manifest.json"):
        prepare(inputs, pretrained, out, workers=1, overwrite=True)
    assert (out / "precious.txt").read_text() == "keep"


def test_overwrite_replaces_a_data_bin(tmp_path: Path, pretrained: Path) -> None:
    out = tmp_path / "bin"
    prepare({"train": [PASSAGES / "train"]}, pretrained, out, workers=1)
    prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True)
    assert list(DataBin(out).splits) == ["valid"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


@pytest.mark.parametrize("name", ["raw/one.json", "empty/", "test/notes.txt", "checkpoint_best.pt", "test/tokens.bin/"])
def test_overwrite_deletes_nothing_of_the_users(tmp_path: Path, pretrained: Path, name: str) -> None:
    """Nor does it begin; a link to a split is somebody's, too."""
    out = tmp_path / "bin"
    prepare({"test": [PASSAGES / "test"]}, pretrained, out, workers=1)
    if name.endswith("bin/"):
        (out / "test" / "tokens.bin").unlink()
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).mkdir() if name.endswith("/") else (out / name).write_text("mine")
    before = sorted(out.rglob("*"))
    with pytest.raises(DataBinError) as error:
        prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True)
    path = out / "raw" if name.startswith("raw") else out / name
    assert str(error.value) == (
        f"{path}: was not written by 'fairseq-cloze prepare' and would be lost with {out}; move it away, or choose "
        "another --out"
    )
    assert sorted(out.rglob("*")) == before and sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


def test_a_split_behind_a_link_is_not_replaced(tmp_path: Path, pretrained: Path) -> None:
    out = tmp_path / "bin"
    prepare({"test": [PASSAGES / "test"]}, pretrained, out, workers=1)
    (out / "test").rename(tmp_path / "elsewhere")
    (out / "test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataBinError, match=f"^{out / 'test'}: was not written by"):
        prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True)
    assert list(DataBin(out).splits) == ["test"]


def test_what_comes_into_a_data_bin_meanwhile_is_not_deleted(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the work is not lost: the same command goes on once it is moved away."""
    out = tmp_path / "bin"
    prepare({"test": [PASSAGES / "test"]}, pretrained, out, workers=1)
    told: list[str] = []
    write = prepare_module.write_manifest

    def write_late(*arguments: Any) -> None:
        (out / "late.txt").write_text("mine")
        write(*arguments)

    def again() -> None:
        prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True, tell=told.append)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_manifest", write_late)
        with pytest.raises(DataBinError, match=f"^{out / 'late.txt'}: was not written by"):
            again()
    assert (out / "late.txt").read_text() == "mine" and list(DataBin(out).splits) == ["test"]
    (out / "late.txt").rename(tmp_path / "late.txt")
    again()
    assert told == ["resuming: 1 of 1 shards were done"] and list(DataBin(out).splits) == ["valid"]


def test_a_damaged_data_bin_can_be_replaced(tmp_path: Path, pretrained: Path) -> None:
    """As its errors advise; what is the user's stays as safe as in a sound one."""
    out = tmp_path / "bin"
    for name in ("manifest.json", "tokenizer.json", "test/tokens.bin"):
        prepare({"test": [PASSAGES / "test"]}, pretrained, out, workers=1, overwrite=out.exists())
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ClozeError):
            DataBin(out).open("test")
    (out / "test" / "notes.txt").write_text("mine")
    with pytest.raises(DataBinError, match=f"^{out / 'test' / 'notes.txt'}: was not written by"):
        prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True)
    (out / "test" / "notes.txt").unlink()
    prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True)
    assert list(DataBin(out).splits) == ["valid"] and [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_out_is_a_link(tmp_path: Path, pretrained: Path) -> None:
    """What it leads to is written, and the link stays."""
    out, there = tmp_path / "bin", tmp_path / "disk" / "there"
    out.symlink_to(there)
    prepare({"test": [PASSAGES / "test"]}, pretrained, out, workers=1)
    with pytest.raises(ClozeError, match=f"^{there}: already exists; "):
        prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1)
    prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True)
    assert list(DataBin(out).splits) == ["valid"] and os.readlink(out) == str(there)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "disk"]
    assert [path.name for path in there.parent.iterdir()] == ["there"]


@pytest.mark.parametrize("kind", ["empty", "folder", "file", "link"])
def test_a_partial_of_the_users_is_not_touched(tmp_path: Path, pretrained: Path, kind: str) -> None:
    out, mine = tmp_path / "bin", tmp_path / "bin.partial"
    place = mine if kind in ("empty", "folder") else tmp_path / "mine"
    place.mkdir()
    if kind != "empty":
        (place / "thesis.txt").write_text("precious")
    if kind == "link":
        mine.symlink_to(place)
    elif kind == "file":
        mine.write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ClozeError) as error:
        prepare({"test": [PASSAGES / "test"]}, pretrained, out, workers=1)
    assert str(error.value) == (
        f"{mine}: is in the way, as the data-bin would grow under that name, and was not written by "
        "'fairseq-cloze prepare'; move it away, or choose another --out"
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert kind == "empty" or (place / "thesis.txt").read_text() == "precious"


def test_a_file_of_the_users_in_a_partial_of_ours_stays(tmp_path: Path, pretrained: Path) -> None:
    with Partial(tmp_path / "bin") as partial:
        partial.claim("0" * 32)
        (partial.folder / "thesis.txt").write_text("precious")
    prepare({"test": [PASSAGES / "test"]}, pretrained, tmp_path / "bin", workers=1)
    assert [path.name for path in (tmp_path / "bin.partial").iterdir()] == ["thesis.txt"]
    assert list(DataBin(tmp_path / "bin").splits) == ["test"]


def test_a_kill_between_the_old_data_bin_and_the_new_one_loses_neither(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, passage: Callable[..., Path]
) -> None:
    out = tmp_path / "bin"
    prepare({"test": [PASSAGES / "test"]}, pretrained, out, workers=1)
    rename = os.rename

    def kill(source: Any, target: Any) -> None:
        if target == out:  # neither the new one gets the name, nor the old one back
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", kill)
        with pytest.raises(KeyboardInterrupt):
            prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True)
    with pytest.raises(PassageError):  # which removes what was made of the input
        prepare({"valid": [passage("bad.json", "_", [["one"]])]}, pretrained, out, workers=1)
    [old] = (tmp_path / "bin.partial").glob("replaced-*")
    assert list(DataBin(old).splits) == ["test"]
    prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1)
    assert list(DataBin(out).splits) == ["valid"] and not (tmp_path / "bin.partial").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path, pretrained: Path) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "bin"
    with pytest.raises(ClozeError, match=rf"^{out}: cannot be written \(.*\); choose another file$"):
        prepare({"test": [PASSAGES / "test"]}, pretrained, out, workers=1)
    assert (tmp_path / "file").read_text() == "mine"


def test_folders_of_like_names_are_the_users(tmp_path: Path, pretrained: Path) -> None:
    (tmp_path / "bin.old").mkdir()
    (tmp_path / "bin.old" / "notes.txt").write_text("keep")
    for overwrite in (False, True):
        prepare({"valid": [PASSAGES / "valid"]}, pretrained, tmp_path / "bin", workers=1, overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "bin.old"]
    assert (tmp_path / "bin.old" / "notes.txt").read_text() == "keep"


def test_a_data_bin_that_cannot_be_replaced_stays(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bin"
    prepare({"train": [PASSAGES / "train"]}, pretrained, out, workers=1)
    rename = os.rename

    def refuse(source: Any, target: Any) -> None:
        if str(source).endswith("data-bin"):
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(ClozeError, match=r"cannot be written \(Permission denied\); what is done stays in "):
        prepare({"valid": [PASSAGES / "valid"]}, pretrained, out, workers=1, overwrite=True)
    assert list(DataBin(out).splits) == ["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "bin.partial"]


# -- whole or not at all ---------------------------------------------------------------------------------------------


def test_two_runs_at_once(tmp_path: Path, pretrained: Path) -> None:
    source = tmp_path / "slow.jsonl"
    os.mkfifo(source)
    out = tmp_path / "bin"
    process = start(
        *("fairseq-cloze", "prepare", "--train", source, "--pretrained", pretrained, "--out", out, "--workers", "1")
    )
    with open(source, "w") as pipe:  # opens once the first run reads
        while not (tmp_path / "bin.partial").exists():
            time.sleep(0.01)
        with pytest.raises(ClozeError) as error:
            prepare({"train": [PASSAGES / "train"]}, pretrained, out, workers=1)
        assert str(error.value) == (f"{out}: another 'prepare' is writing it; wait for it, or choose another --out")
        pipe.write(json.dumps({"article": "It was _ .", "options": [FOUR], "answers": ["A"]}))
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert DataBin(out).open("train").blanks == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(tmp_path: Path, pretrained: Path) -> None:
    """Ten times the passages, the same peak memory within 20 MB."""
    line = json.dumps({"article": "It was _ . " * 20, "options": [FOUR] * 20, "answers": ["A"] * 20})
    script = (
        "import sys; from fairseq_cloze.data.prepare import prepare;"
        "prepare({'train': [sys.argv[1]]}, sys.argv[2], sys.argv[3], workers=1);"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # KiB; not that of the parent
    )
    peaks = []
    for size in (2_000, 20_000):
        source = tmp_path / f"{size}.jsonl"
        source.write_text("".join(f"{line}\n" for _ in range(size)))
        done = run(sys.executable, "-c", script, source, pretrained, tmp_path / f"bin{size}")
        peaks.append(int(done.text.split()[-1]))
    assert peaks[1] - peaks[0] < 20 * 1024


# -- opening ---------------------------------------------------------------------------------------------------------


def test_no_data_bin(tmp_path: Path) -> None:
    with pytest.raises(DataBinError) as error:
        DataBin(tmp_path / "gone")
    assert str(error.value) == (
        f"{tmp_path / 'gone'}: expected a data-bin, found no such folder; "
        f"write one with 'fairseq-cloze prepare --out {tmp_path / 'gone'}'"
    )


def test_no_such_split(data_bin: Path) -> None:
    with pytest.raises(DataBinError) as error:
        DataBin(data_bin).open("dev")
    assert str(error.value) == (
        f"{data_bin}: no split 'dev', found test, train, valid; prepare it with 'fairseq-cloze prepare', "
        "or name another one"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format_version": 4},
            "expected format version 3, found 4; run 'fairseq-cloze prepare' of this version again",
        ),
        ({"format": "other"}, "not the manifest of a fairseq-cloze data-bin; give the folder 'prepare' wrote"),
    ],
)
def test_other_formats(tmp_path: Path, data_bin: Path, change: dict[str, Any], message: str) -> None:
    shutil.copytree(data_bin, tmp_path / "bin")
    path = tmp_path / "bin" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataBinError) as error:
        DataBin(tmp_path / "bin")
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("name", ["tokenizer.json", "vocabulary.json"])
def test_changed_vocabulary(tmp_path: Path, data_bin: Path, name: str) -> None:
    shutil.copytree(data_bin, tmp_path / "bin")
    path = tmp_path / "bin" / name
    path.write_text(path.read_text().replace("600", "599").replace("\u0120the", "\u0120thx"))
    with pytest.raises(DataBinError, match=f"^{path}: expected SHA-256 "):
        DataBin(tmp_path / "bin")


def test_a_data_bin_without_a_language_is_english(tmp_path: Path, data_bin: Path) -> None:
    """As earlier versions wrote it."""
    shutil.copytree(data_bin, tmp_path / "bin")
    path = tmp_path / "bin" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["encoding"]["language"], manifest["digest"]
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["digest"] = hashlib.sha256(content.encode()).hexdigest()
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    found = DataBin(tmp_path / "bin")
    assert found.encoding == EncodingOptions() == DataBin(data_bin).encoding
    assert as_lists(found.open("valid")) == as_lists(DataBin(data_bin).open("valid"))


LANGUAGES = ROOT / "examples" / "languages"
MINI = ROOT / "examples" / "pretrained" / "mini"


@pytest.mark.parametrize(
    ("language", "blanks", "article"),
    [
        (
            "fr",
            104,
            "Je n'avais jamais<mask> plus de cinq kilomètres quand ma sœur m'a inscrit<mask> un marathon<mask>",
        ),
        (
            "zh",
            87,
            "我家的小猫叫豆豆，它今年三<mask>了。它的毛很白，眼睛<mask>大又圆。每天早上，它都会跳到我的床<mask>，",
        ),
    ],
)
def test_examples_of_other_languages(tmp_path: Path, language: str, blanks: int, article: str) -> None:
    """They fit, are balanced, and go all the way with weights that know no word of them: read, encoded, scored."""
    options = EncodingOptions(language=language)
    [split] = prepare({"test": [LANGUAGES / language]}, MINI, tmp_path / "bin", options, workers=1)
    assert (split.tally.passages, split.tally.blanks, split.tally.labelled) == (10, blanks, blanks)
    assert split.languages == {language: 10} and split.looked_at == 10
    data = DataBin(tmp_path / "bin")
    assert data.encoding == options and data.manifest["splits"]["test"]["makeshift_tokens"] == split.makeshift_tokens
    store = data.open("test")
    texts = [data.vocabulary.decode(store[number].tokens.tolist()) for number in range(10)]
    assert [text for text in texts if text.startswith(article)] and "\u00a0" not in "".join(texts)
    letters = np.bincount(store.columns["gold"])
    assert len(letters) == 4 and letters.max() - letters.min() <= 1
    assert (np.diff(store.candidate_offsets) == 4).all()
    assert evaluate(MINI / "model.pt", data, "test").n_blanks == blanks


def test_text_that_the_vocabulary_lacks_is_counted_and_warned_of(tmp_path: Path) -> None:
    """Chinese in an English vocabulary, without --language: both are said, per split."""
    command = ("fairseq-cloze", "prepare", "--test", LANGUAGES / "zh", "--valid", PASSAGES / "valid")
    done = run(*command, "--pretrained", MINI, "--out", tmp_path / "bin", "--workers", 1)
    splits = DataBin(tmp_path / "bin").manifest["splits"]
    parts, tokens = splits["test"]["makeshift_tokens"], splits["test"]["tokens"]
    assert 0.5 * tokens < parts < tokens
    assert done.text.splitlines()[-5:] == [
        "valid: 8 passages, 102 blanks, 0 skipped",
        "test: 10 passages, 87 blanks, 0 skipped",
        f"  warning: {100 * parts / tokens:.1f}% of the tokens stand for text that the vocabulary lacks: 0 are unknown "
        f"and {parts:,} are parts of characters, of {tokens:,}; take weights that were trained on such text",
        "  warning: 10 of 10 passages looked at seem to need --language zh, and were read with --language en; prepare "
        "them again if so",
        f"wrote {tmp_path / 'bin'}",
    ]


def test_a_marker_of_blanks(tmp_path: Path, pretrained: Path) -> None:
    """--blank reads what underscores would, is recorded, and changes no token."""
    for source in (PASSAGES / "valid").iterdir():
        text = source.read_text(encoding="utf-8").replace("_", "[MASK]")
        (tmp_path / "marked" / source.name).parent.mkdir(exist_ok=True)
        (tmp_path / "marked" / source.name).write_text(text, encoding="utf-8")
    prepare({"valid": [PASSAGES / "valid"]}, pretrained, tmp_path / "plain", workers=1)
    prepare({"valid": [tmp_path / "marked"]}, pretrained, tmp_path / "bin", workers=1, blank=r"\[MASK\]")
    assert as_lists(DataBin(tmp_path / "bin").open("valid")) == as_lists(DataBin(tmp_path / "plain").open("valid"))
    assert DataBin(tmp_path / "bin").manifest["blank"] == r"\[MASK\]"
    command = ("fairseq-cloze", "prepare", "--valid", tmp_path / "marked", "--pretrained", pretrained)
    first = sorted((tmp_path / "marked").iterdir())[0]
    assert run(*command, "--out", tmp_path / "no", "--blank", "(_+)+", code=1).text.startswith(
        "Error: --blank: expected"
    )
    hint = "': if they stand for blanks, give --blank '\\[MASK\\]'; mend the passage"
    refused = run(*command, "--out", tmp_path / "no", code=1).text
    assert f"Error: {first}: field 'article': expected a blank" in refused and hint in refused


def test_texts_to_learn_from(passage: Callable[..., Path]) -> None:
    path = passage("a.json", "She _ to  school , _ .", [["went", "go"], ["so", "/"]], ["A", "A"])
    assert list(passage_texts([path])) == ["She went to school, so."]


def test_learn_bpe_counts_and_names(tmp_path: Path, passage: Callable[..., Path]) -> None:
    bad = passage("bad.json", "It was _ .", [["one"]])
    command = ("fairseq-cloze", "learn-bpe", bad.parent, "--size", "300", "--out", tmp_path / "bpe")
    why = "blank 1, field 'options': expected a list of 2 to 127 strings, found 1"
    assert run(*command, code=1).text.startswith(f"Error: {bad}: {why}; ")
    assert run(*command, "--on-error", "skip", code=1).text.splitlines() == [
        f"skipped {bad}: {why}",
        f"Error: {bad.parent}: expected passages with blanks, found none (0 passages, 0 blanks, 1 skipped; "
        f"skipped {bad}: {why})",
    ]
    assert not (tmp_path / "bpe").exists()
    passage("good.json", "It was _ .", [FOUR], ["A"])
    assert run(*command, "--on-error", "skip").text.splitlines() == [
        f"skipped {bad}: {why}",
        f"1 passages, 1 blanks, 1 skipped; wrote {tmp_path / 'bpe'}, 269 rows",
    ]


def test_learn_bpe_replaces_no_other_vocabulary(tmp_path: Path, pretrained: Path) -> None:
    folder = Path(shutil.copytree(pretrained, tmp_path / "weights"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = ("fairseq-cloze", "learn-bpe", PASSAGES / "test", "--size", "300", "--out")
    assert run(*command, folder, code=1).text == (
        f"Error: {folder}/dict.txt: already exists and is of another vocabulary; choose another folder\n"
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert run(*command, tmp_path / "bpe").text == run(*command, tmp_path / "bpe").text  # the same once more


def test_the_room_needs_no_torch() -> None:
    code = (
        "import pkgutil, sys, fairseq_cloze.data as room\n"
        "for module in pkgutil.iter_modules(room.__path__):\n"
        "    __import__(f'fairseq_cloze.data.{module.name}')\n"
        "print(*sorted({'torch', 'fairseq', 'sklearn', 'matplotlib'} & set(sys.modules)), 'prepare' in dir(room))"
    )
    assert run(sys.executable, "-c", code).text == "True\n"
