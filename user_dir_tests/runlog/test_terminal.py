from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairseq_cloze.runlog.terminal import LONGEST_PART, Lines

from ..support.running import InTerminal, alive, python, shell, until

Start = Callable[..., InTerminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Commands in terminals that are closed at the end of the test."""
    started: list[InTerminal] = []

    def go(*args: object, **kwargs: object) -> InTerminal:
        started.append(InTerminal(tmp_path, *args, **kwargs))  # type: ignore[arg-type]
        return started[-1]

    yield go
    for one in started:
        one.close()


# -- what the log gets -----------------------------------------------------------------------------------------------


def lines(*steps: object, pieces: int = 0) -> str:
    """The log of output: bytes are sent, numbers are seconds that pass in silence."""
    out: list[bytes] = []
    made = Lines(out.append)
    now = 1000.0
    for step in steps:
        if isinstance(step, (int, float)):
            now += step
            made.idle(now)
        elif isinstance(step, bytes):
            size = pieces or len(step)
            for begin in range(0, len(step), size):
                made.feed(step[begin : begin + size], now)
    made.close()
    return b"".join(out).decode(errors="surrogateescape")


BAR = (b"\r 0%", 0.1, b"\r10%", 6, b"\r20%", 6, b"\r30%", 1, b"\r99%", b"\r100%\r\n", b"next\r\n")

# The outer bar of two stands above the inner one, which goes down to its line and up again.
NESTED = (
    *(b"\router 0", *[b"\r\n\rinner 0\x1b[A"] * 9, b"\r\n\rinner 1\x1b[A", 11.0, *[b"\r\n\rinner 2\x1b[A"] * 9),
    *(
        b"\r\n\r       \r\x1b[A",
        b"\router 1",
        b"\r\n\rinner 0\x1b[A",
        b"\r\n\r       \r\x1b[A",
        b"\router 2\r\n",
        b"end\r\n",
    ),
)


@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("steps", "log"),
    [
        ([b"one\r\n\r\ntwo\r\ntwo\r\nthree"], "one\n\ntwo\ntwo\nthree"),
        ([b"\x1b[1;31mred\x1b[0m\x1b[K \x1b]0;title\x07\x1b(Bplain\x07\r\n"], "red plain\n"),
        ([b"\xe2\x82", b"\xac \xff\x00\ttab\r\r\n"], "€ \udcff\x00\ttab\n"),
        (BAR, " 0%\n20%\n100%\nnext\n"),
        ([b"\r50%", 11, 11, b"\r50%\r\n"], "50%\n"),
        ([b"50%\r", 11, b"60%\r", b"\r\n\r\n"], "50%\n60%\n\n"),
        ([b"\r 1%", b"\r70%"], " 1%\n70%\n"),
        (NESTED, "outer 0\ninner 0\ninner 1\nouter 2\nend\n"),
    ],
)
def test_lines(steps: list[object], log: str, pieces: int) -> None:
    assert lines(*steps, pieces=pieces) == log


def test_an_endless_line_is_bounded() -> None:
    out: list[bytes] = []
    made = Lines(out.append)
    for _ in range(100):
        made.feed(b"x" * 10_000, 0.0)
    written = sum(map(len, out))
    assert 1_000_000 - LONGEST_PART - 10_000 <= written <= 1_000_000
    made.feed(b"\r\n", 0.0)
    made.close()
    assert b"".join(out) == b"x" * 1_000_000 + b"\n"


# -- a terminal stays a terminal -------------------------------------------------------------------------------------


def test_terminal(start: Start) -> None:
    """The command has a terminal of the same size; colours are on the screen, and not in the log."""
    code = """
import os; os.open('/dev/tty', 0)
print(*map(os.isatty, range(3)), *os.get_terminal_size(), '\\x1b[31mred\\x1b[0m')
"""
    ran = start(python(code)).end(0)
    assert b"True True True 90 30 \x1b[31mred\x1b[0m\r\n" in ran.shown(b"\x1b[0m\r\n")
    assert ran.output() == b"True True True 90 30 red\n"


ASKS = shell("(echo Password: > /dev/tty) 2> error && echo asked || { cat error; echo cannot ask; }")


def test_a_command_can_ask_on_its_terminal(start: Start) -> None:
    assert b"Password:\r\nasked\r\n" in start(ASKS).end(0).shown(b"asked\r\n")


def test_behind_a_pipe_a_command_cannot_ask(start: Start) -> None:
    """As ``docs/logging.md`` says of ``sudo``, ``ssh`` and ``git``: there is no terminal then."""
    ran = start(ASKS, stdout=subprocess.PIPE).end(0)
    assert ran.output().endswith(b"/dev/tty: No such device or address\ncannot ask\n")
    assert b"Password" not in ran.screen


def test_status(start: Start) -> None:
    ran = start(shell("kill -SEGV $$")).end(139)
    assert ran.facts()["status"] == "139 (SIGSEGV)"


def test_not_found(start: Start) -> None:
    ran = start(["no-such-command"])
    before = ran.settings()
    ran.end(127)
    assert ran.output() == b"no-such-command: not found; check its name, and PATH\n"
    assert ran.settings() == before


def test_new_size(start: Start) -> None:
    code = "trap 'stty size' WINCH; echo ready; while [ ! -e go ]; do sleep 0.05; done"
    ran = start(shell(code))
    ran.shown(b"ready")
    ran.resize(11, 22)
    ran.shown(b"11 22")
    (ran.folder / "go").touch()
    ran.end(0)


def test_keys(start: Start) -> None:
    """What is typed is read by the command, which also decides what is shown of it; then all is as before."""
    ran = start(shell("stty -echo; echo name?; read x; stty echo; echo got $x; read y; echo and $y"))
    before = ran.settings()
    ran.shown(b"name?")
    ran.type(b"secret\n")
    ran.shown(b"got secret")
    ran.type(b"public\n")
    ran.shown(b"and public")
    ran.end(0)
    assert ran.screen.count(b"secret") == 1 and ran.screen.count(b"public") == 2
    assert ran.settings() == before


def test_interrupt_key(start: Start) -> None:
    """^C is the command's, here and in whatever it runs in the foreground."""
    ran = start(python("import time; print('ready'); time.sleep(300)"))
    before = ran.settings()
    ran.shown(b"ready")
    ran.type(b"\x03")
    ran.end(130)
    assert b"KeyboardInterrupt" in ran.output() and ran.settings() == before
    assert "forwarded" not in ran.facts()


def test_job_control(start: Start) -> None:
    """Started in the background, the command leaves keys to the shell; in the foreground they are its own."""
    inner = "fairseq-cloze run --name inner -- sh -c 'echo up; read x; echo got-$x'"
    ran = start(["bash", "--norc", "-i"], env={"PS1": "$ "})
    ran.shown(b"$ ")
    ran.type(inner.encode() + b" &\n")
    ran.shown(b"up\r")
    ran.type(b"echo $((40 + 2))\n")
    ran.shown(b"42\r\n")
    ran.type(b"fg\n")
    until(lambda: b"echo got-$x'" in ran.screen.rpartition(b"fg\r\n")[2])
    ran.type(b"word\n")
    ran.shown(b"got-word\r\n")
    ran.type(b"exit 7\n")
    ran.process.wait(60)
    assert ran.process.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_signals(start: Start, number: signal.Signals) -> None:
    ran = start(shell("echo ready; exec sleep 300"))  # a shell may lose an interrupt while it starts another program
    before = ran.settings()
    ran.shown(b"ready")
    ran.process.send_signal(number)
    ran.end(128 + number)
    assert ran.facts()["forwarded"] == number.name and ran.settings() == before


def test_input_that_is_no_terminal(start: Start) -> None:
    ran = start(shell("test -t 1 && test ! -t 0 && cat; exit 3"), stdin=subprocess.DEVNULL).end(3)
    assert ran.output() == b""


def test_bytes_arrive_unharmed(start: Start) -> None:
    code = r"printf '\342'; sleep 0.3; printf '\202\254 \377 \303'"
    ran = start(shell(code)).end(0)
    assert ran.output() == b"\xe2\x82\xac \xff \xc3\n"
    assert ran.shown(b"\xc3").endswith(b"\xe2\x82\xac \xff \xc3")


def test_progress_bar(start: Start) -> None:
    """The bar of tqdm is drawn on the screen many times, and stands in the log a few times."""
    code = "import time; from tqdm import trange\nfor i in trange(300): time.sleep(0.005)\nprint('done')"
    ran = start(python(code)).end(0)
    assert ran.shown(b"done").count(b"\r") > 10
    text = ran.output().decode()
    assert "300/300" in text and text.endswith("\ndone\n") and text.count("\n") <= 3 and "\r" not in text


def test_closed_output(start: Start) -> None:
    ran = start(shell("echo before; exec >&- 2>&- <&-; sleep 0.7; exit 4")).end(4)
    assert ran.output() == b"before\n"


def test_daemon(start: Start) -> None:
    """One that left the session is left alone and holds nothing up, even where it goes on writing."""
    ran = start(shell("setsid sh -c 'trap \"\" HUP; echo $$; while sleep 0.001; do echo y; done' & sleep 0.5; exit 2"))
    pid = int(until(lambda: ran.output().split())[0])
    ran.end(2)
    assert ran.facts()["status"] == "2" and alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_kill_9(start: Start) -> None:
    """The log has every line up to then."""
    ran = start(shell("for i in 1 2 3; do echo line $i; done; sleep 300"))
    ran.shown(b"line 3")
    until(lambda: ran.output() == b"line 1\nline 2\nline 3\n")
    ran.process.kill()
    ran.process.wait()
    assert ran.output() == b"line 1\nline 2\nline 3\n"


def test_terminal_that_goes_away(start: Start) -> None:
    """As where a window is closed: the command is told, and the log has its end."""
    ran = start(shell("trap 'echo told; exit 8' HUP; echo ready; while :; do sleep 0.05; done"))
    ran.shown(b"ready")
    ran.hang_up()
    ran.end(8)
    assert ran.output().replace(b"Hangup\n", b"") == b"ready\ntold\n"  # which the shell says where sleep was ended
    assert ran.facts()["forwarded"] == "SIGHUP"


def test_full_disk(start: Start) -> None:
    """It is said once, and the command goes on, on the screen and to its own status."""
    code = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 6"
    ran = start(shell(code), limit=8192)
    assert ran.process.wait(60) == 6
    assert ran.shown(b"line 2999").count(b"cannot be written (File too large)") == 1
    assert ran.log.stat().st_size == 8192


def test_flood(start: Start) -> None:
    """Every line is there; memory stays flat."""
    ran = start(shell("seq 1 2000000; echo wait; while [ ! -e go ]; do sleep 0.05; done"))
    until(lambda: b"wait" in ran.log.read_bytes()[-2000:])
    [peak] = [s for s in Path(f"/proc/{ran.process.pid}/status").read_text().splitlines() if s.startswith("VmHWM:")]
    (ran.folder / "go").touch()
    ran.end(0)
    assert ran.output() == b"".join(b"%d\n" % number for number in range(1, 2_000_001)) + b"wait\n"
    assert int(peak.split()[1]) < 60_000
