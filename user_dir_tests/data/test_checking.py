"""Damages of a data-bin: each is refused by the name of a file, and nothing is read again that was found sound."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_cloze.data import checking
from fairseq_cloze.data.databin import MANIFEST, DataBin, _digest, _written
from fairseq_cloze.data.encoding import COLUMNS, column_dtype
from fairseq_cloze.data.fairseq_files import DICTIONARY_FILE, FairseqFiles
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import FILES, Vocabulary
from fairseq_cloze.errors import ClozeError

from ..support.commands import PASSAGES, run
from ..support.stores import as_lists

SPLIT_FILES = [f"test/{name}.bin" for name in COLUMNS]
ADVICE = "the data-bin is damaged, copy it again, or run 'fairseq-cloze prepare' again"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "bin"
    prepare({"test": [PASSAGES / "test" / "a2-my-first-day.json"]}, pretrained, folder, workers=1)
    return folder


@pytest.fixture
def copy(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bin"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fairseq-cloze" / "sound"


def problem(folder: Path) -> str:
    with pytest.raises(ClozeError) as error:
        DataBin(folder).open("test")
    return str(error.value).replace(f"{folder}/", "")


def edit(folder: Path, change: Callable[[dict[str, Any]], Any], digested: bool = True) -> None:
    """Change the manifest as somebody would who means to."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    manifest.pop("digest", None)
    if digested:
        manifest["digest"] = _digest(manifest)
    (folder / MANIFEST).write_text(_written(manifest))


def make_old(folder: Path, version: int = 1) -> None:
    """A data-bin as earlier versions wrote it: with fairseq's three files, at first without digests."""
    vocabulary = Vocabulary.load(folder)
    files = vocabulary.fairseq_files()
    for name in FILES:
        (folder / name).unlink()
    vocabulary.save(folder)

    def change(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = version
        manifest["vocabulary"] = {"rows": len(vocabulary), **FairseqFiles(files, "old").digests}
        manifest["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        for split in manifest["splits"].values():
            del split["makeshift_tokens"]
            for column in split["columns"].values() if version == 1 else ():
                del column["sha256"]
        if version == 1:
            del manifest["files"]

    edit(folder, change, digested=version > 1)


# -- what was damaged ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [MANIFEST, *FILES, *SPLIT_FILES])
def test_every_damage_is_refused_by_name(whole: Path, copy: Path, name: str) -> None:
    file, draw = copy / name, random.Random(name)
    content = file.read_bytes()

    def flipped(bit: int) -> bytes:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    damages = [flipped(draw.randrange(8 * len(content))) for _ in range(12)]
    damages += [content[:-1], content + b"\0", content + b"\n", b"", bytes(len(content)), content[: len(content) // 2]]
    for damage in damages:
        file.write_bytes(damage)
        assert name in problem(copy), damage
    file.write_bytes(content)
    assert as_lists(DataBin(copy).open("test")) == as_lists(DataBin(whole).open("test"))


@pytest.mark.parametrize(("one", "other"), [("gold", "candidate_first"), ("blank_count", "id_length")])
def test_files_that_changed_places(copy: Path, one: str, other: str) -> None:
    a, b = copy / "test" / f"{one}.bin", copy / "test" / f"{other}.bin"
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)
    assert problem(copy).startswith(("test/gold.bin: ", "test/id_length.bin: "))


@pytest.mark.parametrize("name", [MANIFEST, *FILES, "test/tokens.bin", "test"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling", "loop", "socket", "gone", "device"])
def test_no_file_in_its_place(copy: Path, name: str, kind: str) -> None:
    file = copy / name
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind in ("dangling", "loop"):
        file.symlink_to("nowhere" if kind == "dangling" else file.name)
    elif kind == "socket":
        os.mknod(file, stat.S_IFSOCK | 0o600)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    text = problem(copy)
    assert name in text or (kind == "gone" and name == MANIFEST) and "\n" not in text


# -- what lies -------------------------------------------------------------------------------------------------------


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        if value is None:
            del manifest[path[-1]]
        else:
            manifest[path[-1]] = value

    return change


TOKENS = ("splits", "test", "columns", "tokens")
AT_TOKENS = "at 'splits.test.columns.tokens"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*TOKENS, "dtype"), "O", f'expected uint16 {AT_TOKENS}.dtype\', found "O"'),
        ((*TOKENS, "entries"), "7", f'expected a number {AT_TOKENS}.entries\', found "7"'),
        ((*TOKENS, "entries"), True, f"expected a number {AT_TOKENS}.entries', found true"),
        ((*TOKENS, "entries"), 10**300, f"expected a number {AT_TOKENS}.entries', found 1{59 * '0'}"),
        ((*TOKENS, "sha256"), 5, f"expected a digest {AT_TOKENS}.sha256', found 5"),
        ((*TOKENS, "more"), 1, f'expected nothing but dtype, entries, sha256 {AT_TOKENS}\', found ["more"]'),
        (TOKENS, [], f"expected an object with dtype, entries, sha256 {AT_TOKENS}', found []"),
        (("splits",), "x", "expected an object at 'splits', found \"x\""),
        (("splits", "../x"), {}, "expected names of folders at 'splits', found \"../x\""),
        (("vocabulary", "rows"), 601, "expected 600 at 'vocabulary.rows', found 601"),
        (("encoding", "sentence_case"), "no", "expected true or false at 'encoding.sentence_case', found \"no\""),
        (("encoding", "language"), "de", "expected one of en, fr, zh at 'encoding.language', found \"de\""),
        (("encoding", "text_norm"), [1], "expected one of standard, none at 'encoding.text_norm', found [1]"),
    ],
)
def test_a_manifest_that_lies(copy: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    """Its digest is right, as whoever made it could compute one."""
    edit(copy, put(*path, value=value))
    assert problem(copy) == f"manifest.json: {message}; {ADVICE}"


@pytest.mark.parametrize(("name", "file"), [("blanks", "gold"), ("labelled_blanks", "gold"), ("tokens", "tokens")])
def test_counts_that_lie(copy: Path, name: str, file: str) -> None:
    edit(copy, put("splits", "test", name, value=1))
    assert problem(copy) == f"test/{file}.bin: expected 1 {name.replace('_', ' ')}, found others; {ADVICE}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, f"manifest.json: expected JSON, found it nested too deeply; {ADVICE}"),
        (b'{"format": NaN}', f"manifest.json: expected a finite number, found NaN; {ADVICE}"),
        (b'{"format": 1, "format": 2}', f'manifest.json: expected each key once, found "format" twice; {ADVICE}'),
        (b"{}", "manifest.json: not the manifest of a fairseq-cloze data-bin; give the folder 'prepare' wrote"),
        (b"9" * 5000, f"manifest.json: expected a number of at most 1,000 digits, found one of 5,000; {ADVICE}"),
    ],
)
def test_a_manifest_that_is_none(copy: Path, content: bytes, message: str) -> None:
    (copy / MANIFEST).write_bytes(content)
    assert problem(copy) == message


@pytest.mark.parametrize(
    ("name", "place", "value", "expected"),
    [
        ("id_bytes", 0, 0xFF, "ids in UTF-8"),
        ("id_length", 0, 1, "running totals from 0 to 15"),
        ("tokens", 5, 600, "tokens below 600"),
        ("token_count", 1, -1, "running totals from 0 to "),
        ("token_count", 1, 2**62, "running totals from 0 to "),
        ("sentence_start", 0, 1, "ascending places in each passage, from 0 on"),
        ("sentence_start", 1, 2**31 - 1, "ascending places in each passage, from 0 on"),
        ("blank_position", 1, 0, "ascending places of <mask> in each passage"),
        ("gold", 0, 4, "numbers of candidates, or -1"),
        ("gold", 0, -2, "numbers of candidates, or -1"),
        ("candidate_count", 1, 1, "running totals from 0 to "),
        ("candidate_first", 0, 1, "numbers of earlier candidates, or their own"),
        ("candidate_rank", 0, np.nan, "finite numbers"),
        ("candidate_tokens", 0, 65535, "tokens below 600"),
        ("candidate_length", 1, -(2**63), "running totals from 0 to "),
    ],
)
def test_what_is_out_of_range(copy: Path, name: str, place: int, value: Any, expected: str) -> None:
    """Of a data-bin without digests, or with digests of what somebody wrote to do harm."""
    file = copy / "test" / f"{name}.bin"
    values = np.frombuffer(file.read_bytes(), column_dtype(name, 600)).copy()
    values[place] = value
    file.write_bytes(values.tobytes())
    digest = hashlib.sha256(values.tobytes()).hexdigest()
    edit(copy, put("splits", "test", "columns", name, "sha256", value=digest))
    new = problem(copy)
    make_old(copy)
    assert new == problem(copy)
    assert new.startswith(f"test/{name}.bin: expected {expected}") and new.endswith(f", found others; {ADVICE}")


# -- without digests -------------------------------------------------------------------------------------------------


def test_an_old_data_bin_opens_and_says_what_it_lacks(
    copy: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = DataBin(whole)
    assert caplog.messages == []
    make_old(copy)
    old = DataBin(copy)
    assert as_lists(old.open("test")) == as_lists(new.open("test"))
    assert old.vocabulary.digests == new.vocabulary.digests
    assert sorted(old.manifest["vocabulary"]) == ["bpe_digest", "dictionary_digest", "rows"]
    assert caplog.messages == [
        f"{copy}: has no digests, as an earlier version wrote it, so a damage may go unnoticed; run 'fairseq-cloze "
        "prepare' again to have them"
    ]


def test_a_data_bin_of_format_2(copy: Path, whole: Path) -> None:
    make_old(copy, 2)
    old, new = DataBin(copy), DataBin(whole)
    assert as_lists(old.open("test")) == as_lists(new.open("test"))
    assert (old.vocabulary.digests, old.vocabulary.tokens) == (new.vocabulary.digests, new.vocabulary.tokens)
    rows = (copy / DICTIONARY_FILE).read_text().splitlines()
    (copy / DICTIONARY_FILE).write_text("\n".join([rows[1], rows[0], *rows[2:]]))
    assert problem(copy).startswith("dict.txt: expected SHA-256 ")


# -- once per copy ---------------------------------------------------------------------------------------------------


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The splits that are read whole."""
    found: list[Any] = []
    check = checking.check_split
    for module in ("fairseq_cloze.data.databin", "fairseq_cloze.data.checking"):
        monkeypatch.setattr(f"{module}.check_split", lambda *given: (found.append(given[1].name), check(*given))[1])
    monkeypatch.setattr(checking, "SETTLED", 0)
    return found


def test_a_copy_is_checked_once(copy: Path, cache: Path, checked: list[Any]) -> None:
    for _ in range(3):
        DataBin(copy).open("test")
    assert checked == ["test"] and len(list(cache.iterdir())) == 1
    gold = copy / "test" / "gold.bin"
    before, content = gold.stat(), bytearray(gold.read_bytes())
    content[0] ^= 1
    gold.write_bytes(content)
    os.utime(gold, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time of its last change still tells
    assert problem(copy).startswith("test/gold.bin: expected SHA-256 ")
    assert list(DataBin(copy.parent / shutil.copytree(copy, copy.parent / "b")).splits) == ["test"]
    assert problem(copy.parent / "b").startswith("test/gold.bin: ")
    assert checked == ["test"] * 3


def test_what_was_changed_just_now_is_not_remembered(copy: Path, cache: Path) -> None:
    """It may change once more within the same tick of the clock."""
    for file in (copy / "test").iterdir():
        os.utime(file)
    DataBin(copy).open("test")
    assert not cache.exists()


@pytest.mark.parametrize("where", ["", "relative", "/proc/no/such", "/dev/null"])
def test_no_place_to_remember(
    copy: Path, whole: Path, checked: list[Any], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", where)
    monkeypatch.setenv("HOME", "/dev/null" if where else "nowhere")
    for _ in range(2):
        assert len(DataBin(copy).open("test")) == 1
    assert checked == ["test"] * 2 and sorted(copy.rglob("*")) == sorted(
        copy / p.relative_to(whole) for p in whole.rglob("*")
    )


def test_on_demand(copy: Path, cache: Path) -> None:
    done = run("fairseq-cloze", "doctor", copy)
    blanks = DataBin(copy).splits["test"]["blanks"]
    assert done.text == f"vocabulary: 600 rows\ntest: 1 passages, {blanks} blanks\n{copy} is sound\n"
    (copy / "test" / "gold.bin").write_bytes(b"\1" * blanks)
    assert (
        run("fairseq-cloze", "doctor", copy, code=1)
        .text.splitlines()[-1]
        .startswith(f"Error: {copy}/test/gold.bin: expected SHA-256 ")
    )
