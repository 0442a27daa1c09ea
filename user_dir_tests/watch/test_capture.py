from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairseq_cloze.files import UNFINISHED
from fairseq_cloze.watch import capture
from fairseq_cloze.watch.capture import EVENTS, Linker, file_system, give_name, hears_nothing, observe

LIMIT = 30.0


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    folder = tmp_path / ".watch"
    folder.mkdir()
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system, to which there are no hard links."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


def waiting(queue: Path) -> list[str]:
    return [path.name.split(".", 1)[1] for path in sorted(queue.iterdir())]


# -- links -----------------------------------------------------------------------------------------------------------


def test_each_content_of_a_file_is_linked_once(tmp_path: Path, queue: Path) -> None:
    lines: list[str] = []
    linker = Linker(tmp_path, queue, lines.append)
    for name in ("model.pt", "checkpoint_best_accuracy.pt", "checkpoint_1_10.pt.tmp", "checkpoint.txt"):
        (tmp_path / name).write_text("no candidate")
    (tmp_path / "checkpoint_2.pt").mkdir()
    assert linker.look() == 0
    first = tmp_path / "checkpoint_1_10.pt"
    first.write_text("one")
    assert (linker.look(), linker.look()) == (1, 0)
    [private] = queue.iterdir()
    assert os.path.samefile(private, first)
    first.unlink()
    assert linker.look() == 0 and private.read_text() == "one"

    last = tmp_path / "checkpoint_last.pt"
    for content in ("two", "three"):
        (tmp_path / "new").write_text(content)
        os.replace(tmp_path / "new", last)
        assert linker.look() == 1
    assert waiting(queue) == ["checkpoint_1_10.pt", "checkpoint_last.pt", "checkpoint_last.pt"]
    assert [path.read_text() for path in sorted(queue.iterdir())] == ["one", "two", "three"]
    assert lines == []


def test_a_file_that_grows_waits_once(tmp_path: Path, queue: Path) -> None:
    linker = Linker(tmp_path, queue, print)
    path = tmp_path / "checkpoint_1_10.pt"
    for size in (1, 2, 3):
        path.write_bytes(b"x" * size)  # in place: the inode stays
        linker.look()
    [private] = queue.iterdir()
    assert private.read_bytes() == b"xxx"
    private.unlink()  # scored
    assert (linker.look(), linker.look()) == (1, 0)  # its last content was not known before
    [private] = queue.iterdir()
    private.unlink()
    assert linker.look() == 0
    path.write_bytes(b"xxxx")
    assert linker.look() == 1


def test_what_an_earlier_watch_left_is_not_linked_again(tmp_path: Path, queue: Path) -> None:
    (tmp_path / "checkpoint_1_10.pt").write_text("one")
    assert Linker(tmp_path, queue, print).look() == 1
    assert Linker(tmp_path, queue, print).look() == 0
    assert len(list(queue.iterdir())) == 1


def test_copies_where_there_are_no_links(tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_LATER", 0.05)
    lines: list[str] = []
    queue = elsewhere / "queue"
    queue.mkdir()
    linker = Linker(tmp_path, queue, lines.append)
    path = tmp_path / "checkpoint_1_10.pt"
    path.write_text("o")
    assert linker.look() == 0 and list(linker.pending) == [path.name]
    path.write_text("one")  # it grows: what was found before counts for nothing
    time.sleep(0.06)
    assert linker.look() == 0
    time.sleep(0.06)
    assert (linker.look(), linker.look()) == (1, 0)
    [private] = queue.iterdir()
    assert private.read_text() == "one" and private.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert list(elsewhere.iterdir()) == [queue]
    assert lines == [
        "hard links are not possible here (Invalid cross-device link): checkpoints are copied before scoring"
    ]


def test_a_folder_that_went_away(tmp_path: Path, queue: Path) -> None:
    lines: list[str] = []
    linker = Linker(tmp_path / "gone", queue, lines.append)
    assert (linker.look(), linker.look()) == (0, 0)
    assert lines == [f"{tmp_path / 'gone'}: cannot be read (No such file or directory); trying again"]


def test_a_second_name(tmp_path: Path, elsewhere: Path) -> None:
    for folder in (tmp_path, elsewhere):
        first, second, best = tmp_path / "first", tmp_path / "second", folder / "best.pt"
        for path in (first, first, second):
            path.write_text(path.name)
            give_name(path, best)
            assert best.read_text() == path.name and os.path.samefile(path, best) == (folder == tmp_path)
        assert not list(folder.glob(f"{UNFINISHED}*"))


def test_a_second_name_behind_a_link(tmp_path: Path) -> None:
    """The link stays one; a file of the user's that looks unfinished stays, too."""
    path, there = tmp_path / "checkpoint1.pt", tmp_path / "there"
    there.mkdir()
    path.write_text("weights")
    (tmp_path / "best.pt").symlink_to(there / "best.pt")
    (there / "best.pt.tmp").write_text("my own")
    give_name(path, tmp_path / "best.pt")
    assert (tmp_path / "best.pt").is_symlink() and (there / "best.pt").samefile(path)
    assert (there / "best.pt.tmp").read_text() == "my own"
    assert sorted(each.name for each in there.iterdir()) == ["best.pt", "best.pt.tmp"]


# -- events ----------------------------------------------------------------------------------------------------------

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /home rw,nosuid shared:5 master:1 - nfs4 server:/home rw,vers=4.2
31 30 0:27 / /home/me/scratch\\040disk rw - xfs /dev/sdb rw
32 22 0:28 / /mnt rw - tmpfs none rw
33 22 0:29 / /mnt rw - fuse.sshfs me@there: rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "deaf"),
    [
        ("/data/run", "ext4", False),
        ("/homework", "ext4", False),
        ("/home", "nfs4", True),
        ("/home/me/run", "nfs4", True),
        ("/home/me/scratch disk/run", "xfs", False),
        ("/mnt/run", "fuse.sshfs", True),  # what is mounted later hides what was there
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, deaf: bool) -> None:
    assert file_system(Path(path), MOUNTS) == kind
    assert hears_nothing(kind) is deaf


def test_the_file_system_of_this_folder(tmp_path: Path) -> None:
    assert (
        file_system(tmp_path) and not hears_nothing(file_system(Path("/proc"))) and file_system(Path("/proc")) == "proc"
    )


@pytest.mark.parametrize("network", [False, True])
def test_files_are_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool) -> None:
    kind = file_system(tmp_path)
    monkeypatch.setattr(capture, "NETWORK", {kind} if network else set())
    heard: list[str] = []
    assert observe(tmp_path, heard.append) == (f"polling every second, on {kind}" if network else EVENTS)
    (tmp_path / "checkpoint_1_10.pt.tmp").write_text("one")
    os.replace(tmp_path / "checkpoint_1_10.pt.tmp", tmp_path / "checkpoint_1_10.pt")
    end = time.monotonic() + LIMIT
    while "checkpoint_1_10.pt" not in heard and time.monotonic() < end:
        time.sleep(0.02)
    assert "checkpoint_1_10.pt" in heard


def test_nobody_listens_any_more() -> None:
    """What happens in the last moment of a watch puts no traceback on its terminal."""
    here, there = socket.socketpair()
    with here, there:
        capture._tell(there, "checkpoint_\udce9.pt")
        assert here.recv(100) == b"checkpoint_\xe9.pt\0"
        here.close()
        capture._tell(there, "checkpoint.pt")
