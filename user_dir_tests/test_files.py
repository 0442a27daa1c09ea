"""Writing: what replaces a file, what writes to it, and what nobody's file is harmed by."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairseq_cloze import files
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.files import (
    UNFINISHED,
    alone_in,
    cannot_write,
    check_writable,
    is_stdout,
    open_regular,
    read_regular,
    replacing,
    special_kind,
    split_paths,
    sweep,
    unused,
    write_bytes,
    write_text,
)
from fairseq_cloze.ranking.answers import PassagePrediction, write_predictions
from fairseq_cloze.ranking.compare import compare

from .support.commands import PASSAGES, environment, run

# -- reading -------------------------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files._MOST == 64 * 1024 * 1024
    monkeypatch.setattr(files, "_MOST", 3 << 20)
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    assert read_regular(tmp_path / "a") == b"x" * (3 << 20)
    with open_regular(tmp_path / "a") as file:
        assert not os.get_inheritable(file.fileno()) and file.read(5) == b"xxxxx"
    (tmp_path / "a").write_bytes(b"x" * ((3 << 20) + 1))
    with pytest.raises(OSError, match="holds more than 3 MB") as error:
        read_regular(tmp_path / "a")
    assert error.value.errno == errno.EFBIG
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "b")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    """A pipe nobody writes to is not waited for, and nothing stays open."""
    path = tmp_path / "odd"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path)
    before = os.listdir("/proc/self/fd")
    for read in (read_regular, open_regular):
        with pytest.raises(OSError, match=f"is a {kind}, no file") as error:
            read(path)
        assert error.value.errno == errno.EINVAL
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert special_kind(path) == kind


def test_kinds_and_names(tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("")
    assert special_kind(tmp_path / "a:b") is None and special_kind(tmp_path / "gone") is None
    assert split_paths(tmp_path / "a:b") == [f"{tmp_path}/a:b"]
    assert split_paths(f"{tmp_path}/a:c") == [f"{tmp_path}/a", "c"]
    one, two = unused(tmp_path), unused(tmp_path)
    assert one != two and one.parent == tmp_path and names(tmp_path) == ["a:b"]
    assert re.fullmatch(r"\.fairseq-cloze-[0-9a-f]{16}", one.name)
    assert str(cannot_write("a", "why")) == "a: cannot be written (why); choose another file"


# -- writing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path, umask: None) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "first\n")
    inode = path.stat().st_ino
    with open(path) as reader:
        write_text(path, "second ü\n")
        assert reader.read() == "first\n"
    assert path.read_bytes() == "second ü\n".encode()
    assert path.stat().st_ino != inode and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(path.parent) == ["a.txt"]


def test_the_mode_is_what_the_umask_leaves(tmp_path: Path, umask: None) -> None:
    os.umask(0)
    write_text(tmp_path / "a", "")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666


def test_a_writer_that_makes_a_file_of_its_own_gets_the_mode_of_the_umask(tmp_path: Path, umask: None) -> None:
    with replacing(tmp_path / "a") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_an_error_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_one_and_its_file_is_written(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "there" / "real.json"
    target.parent.mkdir()
    if exists:
        target.write_text("old")
    (tmp_path / "middle").symlink_to(target)
    (tmp_path / "link").symlink_to("middle")
    check_writable(tmp_path / "link")
    write_text(tmp_path / "link", "new")
    assert os.readlink(tmp_path / "link") == "middle" and os.readlink(tmp_path / "middle") == str(target)
    assert target.read_text() == "new" and names(target.parent) == ["real.json"]


def test_a_link_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    message = f"{tmp_path / 'a'}: cannot be written (Too many levels of symbolic links); choose another file"
    for write in (check_writable, lambda path: write_text(path, "x")):
        with pytest.raises(ClozeError) as error:
            write(tmp_path / "a")
        assert str(error.value) == message
    assert names(tmp_path) == ["a"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)  # does not wait for a reader
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "content")
    reader.join(20)
    assert read == ["content"] and stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ["pipe"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_written_to(tmp_path: Path) -> None:
    for name, minor in (("null", 3), ("full", 7)):
        try:
            os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
            (tmp_path / name).read_bytes() if name == "null" else None
        except PermissionError:
            pytest.skip("no devices here")
    check_writable(tmp_path / "null")
    write_bytes(tmp_path / "null", b"gone")
    found = (tmp_path / "null").stat()
    assert stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)
    with pytest.raises(ClozeError) as error:
        write_text(tmp_path / "full", "much")
    assert str(error.value) == (
        f"{tmp_path / 'full'}: cannot be written (No space left on device); choose another file"
    )
    assert names(tmp_path) == ["full", "null"]


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output(tmp_path: Path, name: str) -> None:
    """Into a file, too, which goes on where it was."""
    code = f"from fairseq_cloze.files import write_text; print('a'); write_text({name!r}, 'b\\n'); print('c')"
    with open(tmp_path / "out", "w") as out:
        env = environment(PYTHONUNBUFFERED="")  # so that order shows
        subprocess.run([sys.executable, "-c", code], stdout=out, cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "out").read_text() == "a\nb\nc\n" and names(tmp_path) == ["out"]
    assert is_stdout(name) and not is_stdout(None) and not is_stdout(tmp_path / "-")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for write in (check_writable, lambda path: write_text(path, "x")):
        with pytest.raises(ClozeError) as error:
            write(tmp_path)
        assert str(error.value) == f"{tmp_path}: cannot be written (Is a directory); choose another file"
    assert names(tmp_path) == []


def test_two_writers(tmp_path: Path) -> None:
    """Each ends well, the later one's file stands, and a neighbour's name is left alone."""
    (tmp_path / "a.tmp").write_text("my own")
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as two:
        one.write_text("one")
        two.write_text("two")
        assert one != two and {one.parent, two.parent} == {tmp_path}
        assert all(path.name.startswith(UNFINISHED) for path in (one, two))
    assert (tmp_path / "a").read_text() == "one"  # which ends after the other
    assert names(tmp_path) == ["a", "a.tmp"] and (tmp_path / "a.tmp").read_text() == "my own"


def test_two_writers_of_several_files(tmp_path: Path) -> None:
    """What belongs together is of one of them; nothing is left there, and where nothing can be locked all goes on."""
    with alone_in(tmp_path / "new" / "out"):
        with pytest.raises(ClozeError) as error, alone_in(tmp_path / "new" / "out"):
            raise AssertionError("both at once")
        assert str(error.value) == (
            f"{tmp_path}/new/out: another command is writing there; wait for it, or choose another folder"
        )
        with alone_in(tmp_path):
            pass
    with alone_in(tmp_path / "new" / "out"):  # it is over
        assert names(tmp_path / "new" / "out") == []
    (tmp_path / "file").touch()
    with alone_in(tmp_path / "file"), alone_in(tmp_path / "file"):
        pass


@pytest.mark.parametrize("kind", ["socket", "disk"])
def test_what_is_not_written_to(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    try:
        os.mknod(path, stat.S_IFSOCK | 0o600 if kind == "socket" else stat.S_IFBLK | 0o600, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("no devices here")
    for write in (check_writable, lambda path: write_text(path, "x")):
        with pytest.raises(ClozeError) as error:
            write(path)
        assert str(error.value) == f"{path}: cannot be written (is a {kind}, no file); choose another file"


def test_text_for_a_pipe_needs_no_room_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such folder"))
    os.mkfifo(tmp_path / "pipe")
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.append(len((tmp_path / "pipe").read_bytes())), daemon=True)
    reader.start()
    write_text(tmp_path / "pipe", "x" * 3_000_000)
    reader.join(20)
    assert read == [3_000_000]


def test_a_name_that_is_no_text_can_be_written_and_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / name, json.dumps({"name": name}, ensure_ascii=False))
    [path] = tmp_path.iterdir()
    assert os.fsencode(path.name) == b"caf\xe9" and json.loads(path.read_text("utf-8")) == {"name": name}


# -- what killed writers leave ---------------------------------------------------------------------------------------


@pytest.fixture
def unswept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_swept", set())


@pytest.mark.usefixtures("unswept")
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom fairseq_cloze.files import replacing\n"
        "with replacing('a') as temporary:\n    temporary.write_text('half'); print(flush=True); sys.stdin.read()"
    )
    kept = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": tmp_path, "env": environment()}
    with subprocess.Popen([sys.executable, "-c", code], **kept) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"\n"
        [unfinished] = tmp_path.iterdir()
        write_text(tmp_path / "b", "while the other one lives")
        assert names(tmp_path) == [unfinished.name, "b"]
        writer.kill()
        os.utime(unfinished, (4e9, 4e9))  # the clock was set back since
    files._swept.clear()
    write_text(tmp_path / "b", "when it is dead")
    assert names(tmp_path) == ["b"]


@pytest.mark.usefixtures("unswept")
def test_what_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of others, folders, links, and what may be of another machine until a day has passed."""
    (tmp_path / f"{UNFINISHED}notes").write_text("mine")
    (tmp_path / f"{UNFINISHED}{'0' * 24}").mkdir()
    (tmp_path / f"{UNFINISHED}{files._boot()}{'1' * 16}").symlink_to(tmp_path / "a")
    for number in "23":
        (tmp_path / f"{UNFINISHED}{number * 24}").write_text("half")
        (tmp_path / f"{UNFINISHED}{number * 16}").write_text("half")
    (tmp_path / "a").write_text("mine")
    before = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == before
    files._swept.clear()
    monkeypatch.setattr(files, "_ABANDONED", 0.0)
    sweep(tmp_path)
    assert names(tmp_path) == [name for name in before if "22" not in name and "33" not in name]


def test_what_took_the_place_of_an_unfinished_file(tmp_path: Path) -> None:
    """A link is not followed, a pipe is not waited for, and what changed since a day ago stays."""
    (tmp_path / "a").write_text("mine")
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        files._remove_if_abandoned(f"{tmp_path}/link", 0.0)
    for name in ("pipe", "a"):
        files._remove_if_abandoned(f"{tmp_path}/{name}", 86_400.0)
    assert names(tmp_path) == ["a", "link", "pipe"]
    os.utime(tmp_path / "a", (0, 0))  # which sets its times, but not that of this change
    files._remove_if_abandoned(f"{tmp_path}/a", 60.0)
    assert names(tmp_path) == ["a", "link", "pipe"]


def test_a_folder_is_swept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a command that writes many files would else look at all of them each time."""
    write_text(tmp_path / "a", "x")
    left = tmp_path / f"{UNFINISHED}{files._boot()}{'1' * 16}"
    left.write_text("half")
    write_text(tmp_path / "a", "y")
    assert left.exists()
    monkeypatch.setattr(files, "_swept", set())
    write_text(tmp_path / "a", "z")
    assert names(tmp_path) == ["a"]


def test_nothing_but_json_on_standard_output(tmp_path: Path) -> None:
    predictions = {"p": PassagePrediction(["A", "B"], ["A", "A"], [[0.5, 0.5], [0.1, 0.9]])}
    for name in ("a.json", "b.json"):
        write_predictions(tmp_path / name, predictions)
    words = ["fairseq-cloze", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), cwd=tmp_path, check=True)
    result = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert done.stdout == result.to_json() and done.stderr == "".join(f"{line}\n" for line in result.lines())
    assert names(tmp_path) == ["a.json", "b.json"]


def test_answers_on_standard_output(tmp_path: Path, pretrained: Path) -> None:
    words = ["fairseq-cloze", "predict", str(pretrained / "model.pt"), str(PASSAGES / "test")]
    run(*words, "--out", tmp_path / "answers.jsonl")
    done = subprocess.run([*words, "--out", "-"], stdout=subprocess.PIPE, env=environment(), cwd=tmp_path, check=True)
    assert done.stdout == (tmp_path / "answers.jsonl").read_bytes() and len(done.stdout.splitlines()) == 8
    assert names(tmp_path) == ["answers.jsonl"]
