from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runs import lines as module
from fairseq_cloze.runs.lines import LONGEST, LineWriter, make_line, parse_line, read_lines

from ..support.commands import environment


def read(path: Path) -> tuple[list[Any], list[str]]:
    """Objects, and what is said of damaged lines behind the file's name."""
    said: list[str] = []
    found = read_lines(path, said.append, lambda record: "")
    start, end = f"{path}, line ", "; it is passed over, and stays there"
    assert all(line.startswith(start) and line.endswith(end) for line in said)
    return found, [line[len(start) : -len(end)].replace(": cannot be used ", " ") for line in said]


def write(path: Path, *records: dict[str, Any]) -> None:
    with LineWriter(path) as writer:
        for record in records:
            writer.write(record)


# -- one line ----------------------------------------------------------------------------------------------------------


def test_a_line() -> None:
    body = b'{"loss":1.5,"text":"\xe4\xbd\xa0\\nhi","none":null}'
    line = make_line({"loss": 1.5, "text": "你\nhi", "none": math.nan})
    assert line == body[:-1] + b',"crc32":"%08x"}' % zlib.crc32(body)
    assert parse_line(line) == parse_line(body) == json.loads(body)


def test_what_is_no_json_is_made_some() -> None:
    record = {"list": (1, math.inf, {"x": -math.inf}), 3: 4, "name": "\udce9", "half": "\ud800"}
    assert parse_line(make_line(record)) == {
        "list": [1, None, {"x": None}],
        "3": 4,
        "name": "\udce9",
        "half": "\ufffd",
    }


def test_a_flipped_bit_anywhere_is_found() -> None:
    """Or, in the checksum's own name, does no harm."""
    record = {"checkpoint": "a.pt", "accuracy": 31.25, "updates": 400}
    line, found = make_line(record), 0
    for place in range(len(line)):
        for bit in range(8):
            damaged = bytearray(line)
            damaged[place] ^= 1 << bit
            try:
                assert {**parse_line(bytes(damaged)), **record} == parse_line(bytes(damaged))
            except ValueError:
                found += 1
    assert 8 * len(line) - found <= 40


def test_names_that_are_no_utf8_are_read() -> None:
    assert parse_line(rb'{"a":"\udce9"}') == {"a": "\udce9"}
    for text in (rb'{"a":"\ud800"}', rb'{"\udc00":1}'):
        with pytest.raises(UnicodeEncodeError):
            parse_line(text)


# -- files -------------------------------------------------------------------------------------------------------------


def test_damaged_lines_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    good = make_line({"n": 1})
    wrong = good.replace(b'"n":1', b'"n":2')
    long = b'{"x":"' + b"x" * LONGEST + b'"}'
    path.write_bytes(
        b"\n".join([good, wrong, b"", b'{"n":', b"\xff", b"[]", long, b'{"x":"\\ud800"}', good, b'{"n":3}'])
    )
    assert read(path) == (
        [{"n": 1}, {"n": 1}, {"n": 3}],
        [
            "2 (its checksum is another; if you changed the line yourself, take crc32 out of it)",
            "4 (expected JSON, found a mistake in line 1, column 6 (Expecting value))",
            "5 (expected UTF-8 text, found byte 0xff at offset 0)",
            "6 (it is no JSON object)",
            f"7 (it has more than {LONGEST:,} bytes)",
            "8 (it holds half a character)",
        ],
    )


def test_half_a_line_of_a_killed_writer_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write(path, {"n": 1}, {"n": 2})
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        write(path, {"n": 3})
        found, said = read(path)
        assert found[-1] == {"n": 3} and len(found) + len(said) == 1 + (cut > 0) + (cut > len(whole) // 2), cut


def test_what_is_no_file(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == ([], [])
    with pytest.raises(ClozeError, match=r"cannot be read \(is a folder, no file\); check the file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ClozeError, match=r"pipe: cannot be read \(is a pipe, no file\); check the file"):
        read(tmp_path / "pipe")


def test_lines_of_two_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    rows = [[{"writer": name, "n": n, "text": name * 3000} for n in range(300)] for name in "ab"]
    threads = [threading.Thread(target=write, args=(path, *records)) for records in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, said = read(path)
    assert said == [] and path.read_bytes().count(b"\n") == 600
    assert [[record for record in found if record["writer"] == name] for name in "ab"] == rows


def test_a_writer_that_was_stopped_holds_up_none_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_TRIES", 3)
    path = tmp_path / "lines.jsonl"
    with LineWriter(path) as stopped:
        assert stopped._lock()
        write(path, {"n": 1})
    assert read(path) == ([{"n": 1}], [])


FULL = """
import resource, sys
from fairseq_cloze.runs.lines import LineWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
with LineWriter(sys.argv[1], sync=True) as writer:
    for number in range(22):
        try:
            writer.write({"n": number, "text": "x" * 40})
        except OSError as error:
            print(number, error.strerror)
"""


def test_a_full_disk_keeps_what_is_whole(tmp_path: Path) -> None:
    """Beyond the limit the kernel takes a part of a line, and then refuses."""
    path = tmp_path / "lines.jsonl"
    command = [sys.executable, "-c", FULL, str(path)]
    told = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout.splitlines()
    found, said = read(path)
    assert said == [] and path.read_bytes().endswith(b"\n")
    assert told == [f"{number} File too large" for number in range(len(found), 22)] and 0 < len(found) < 22
    write(path, {"n": 22})
    assert read(path) == ([*found, {"n": 22}], [])
    with LineWriter("/dev/full") as writer, pytest.raises(OSError, match="No space left"):
        writer.write({"n": 1})


def test_a_pipe_that_nobody_reads_does_not_hold_up(tmp_path: Path) -> None:
    """What is torn off when it is full stays alone."""
    os.mkfifo(tmp_path / "pipe")
    with LineWriter(tmp_path / "pipe") as writer:
        with pytest.raises(BlockingIOError):
            for number in range(100):
                writer.write({"n": number, "text": "x" * 9000})
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        (tmp_path / "taken").write_bytes(os.read(reader, 1 << 20))
        writer.write({"n": 100})
        with open(tmp_path / "taken", "ab") as file:
            file.write(os.read(reader, 1 << 20))
        os.close(reader)
    found, said = read(tmp_path / "taken")
    assert [record["n"] for record in found] == [*range(len(found) - 1), 100] and len(said) == 1


KILLED = """
import sys
from fairseq_cloze.runs.lines import LineWriter
with LineWriter(sys.argv[1]) as writer:
    print("ready", flush=True)
    number = 0
    while True:
        writer.write({"n": number, "text": "x" * 5000})
        number += 1
"""


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    rng = random.Random(1)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], env=environment(), stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        threading.Event().wait(0.02 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
    write(path, {"n": -1})
    found, said = read(path)
    assert len(said) <= 3 and found[-1] == {"n": -1}
    starts = [place for place, record in enumerate(found) if record["n"] == 0]
    for start, end in zip(starts, [*starts[1:], len(found) - 1]):
        assert [record["n"] for record in found[start:end]] == list(range(end - start))
