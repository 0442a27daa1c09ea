from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze import __version__
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runlog.command import Log, duration, name_of, safe_name
from fairseq_cloze.runlog.surroundings import shell_line, surroundings

from ..support.commands import ROOT, environment, run
from ..support.running import LIMIT, Wrapped, alive, python, quoted, shell, until, words_of

# -- the log ---------------------------------------------------------------------------------------------------------


def test_log(tmp_path: Path) -> None:
    """Head, output and foot; standard output has the output alone, standard error where the log is."""
    ran = Wrapped(tmp_path, shell("echo one; echo two >&2; printf three; exit 3"), "--name", "my run").end(3)
    time_ = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
    assert re.fullmatch(
        r"# command: sh -c 'echo one; echo two >&2; printf three; exit 3'\n"
        rf"# folder: {re.escape(str(tmp_path))}\n"
        r"# revision: none \(no git repository here\)\n"
        r"# host: \S+ \(Linux \S+, \d+ CPUs\)\n"
        r"# gpu: .+\n"
        rf"# versions: python 3\.\d+\.\d+, torch \S+, (ve-)?fairseq \S+, fairseq-cloze {re.escape(__version__)}\n"
        rf"# started: {time_}\n"
        "one\ntwo\nthree\n"
        rf"# ended: {time_}\n"
        r"# duration: 0:00:\d\d\n"
        r"# status: 3\n"
        r"# peak memory: (under )?\d+\.\d MiB \(largest process\)\n",
        ran.log.read_text(),
    )
    assert re.fullmatch(r"\d{4}_\d{6}-my_run\.log", ran.log.name)
    assert ran.out == b"one\ntwo\nthree"
    assert ran.err.decode() == f"fairseq-cloze run: log in {ran.log}\n"


def test_revision(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return run("git", *who, *words, cwd=tmp_path).text.strip()

    git("init", "-q", "-b", "trunk")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    commit = git("rev-parse", "HEAD")
    ran = Wrapped(tmp_path, ["true"], "--name", "clean").end(0)
    assert ran.facts()["revision"] == f"{commit} on trunk, no uncommitted changes"
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "a").write_text("2")
    ran = Wrapped(tmp_path, ["true"]).end(0)
    assert ran.facts()["revision"] == f"{commit} on trunk, uncommitted changes in 1 files"


def test_gpus(tmp_path: Path) -> None:
    """As nvidia-smi lists them."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf 'NVIDIA H200, 143771 MiB\\nNVIDIA H200, 143771 MiB\\n'\n")
    program.chmod(0o755)
    path = f"{program.parent}:{environment()['PATH']}"
    ran = Wrapped(tmp_path, ["true"], env={"PATH": path, "CUDA_VISIBLE_DEVICES": "1"}).end(0)
    assert ran.facts()["gpu"] == "2 x NVIDIA H200, 143771 MiB; CUDA_VISIBLE_DEVICES=1"
    shutil.rmtree(tmp_path / "logs")
    program.write_text("#!/bin/sh\nexit 9\n")
    ran = Wrapped(tmp_path, ["true"], env={"PATH": path}).end(0)
    assert ran.facts()["gpu"] == "unknown (nvidia-smi failed: status 9)"


@pytest.mark.parametrize(
    ("git", "revision"),
    [
        ("echo 'fatal: not a git repository (or any of the parent directories): .git' >&2; exit 128",
         "none (no git repository here)"),
        ("printf 'fatal: detected dubious ownership in repository at %s\\nadvice\\n' x >&2; exit 128",
         "unknown (git: detected dubious ownership in repository at x)"),
        ("exit 1", "unknown (git: status 1)"),
        ("exec sleep 60", "unknown (git: no answer within 0.2 s)"),
        ("echo '# branch.oid'; echo '# branch.'", " on unknown, no uncommitted changes"),
        ("printf '\\377\\n'", "unknown on unknown, uncommitted changes in 1 files"),
        (None, "unknown (git: not found)"),
    ],
)  # fmt: skip
def test_git_that_says_no(git: str | None, revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be found out is unknown, with the reason."""
    monkeypatch.setattr("fairseq_cloze.runlog.surroundings._PATIENCE", 0.2)
    if git is not None:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{git}\n")
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if git else str(tmp_path))
    assert surroundings(["x"])["revision"] == revision


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    """The command runs; where the log is to be below that folder, it is refused in one line."""
    script = 'mkdir d; cd d; rmdir ../d; fairseq-cloze run --log-dir "$1" -- echo ran; fairseq-cloze run true; echo $?'
    ran = run("sh", "-c", script, "sh", tmp_path / "logs", cwd=tmp_path).text.splitlines()
    [log] = (tmp_path / "logs").iterdir()
    assert "# folder: unknown (No such file or directory)\n" in log.read_text()
    assert ran == [
        *(f"fairseq-cloze run: log in {log}", "ran"),
        "Error: logs: no log can be written there (No such file or directory); choose another folder with --log-dir",
        "1",
    ]


def test_environment(tmp_path: Path) -> None:
    ran = Wrapped(tmp_path, shell('echo "$FAIRSEQ_CLOZE_LOG $PYTHONUNBUFFERED"')).end(0)
    assert ran.out.decode() == f"{ran.log} 1\n"
    shutil.rmtree(tmp_path / "logs")
    env = {"PYTHONUNBUFFERED": "", "FAIRSEQ_CLOZE_LOG": "another"}
    ran = Wrapped(tmp_path, shell('echo "$FAIRSEQ_CLOZE_LOG $PYTHONUNBUFFERED"'), env=env).end(0)
    assert ran.out.decode() == f"{ran.log} \n"


def test_peak_memory_is_that_of_the_largest_process(tmp_path: Path) -> None:
    ran = Wrapped(tmp_path, shell(f"{sys.executable} -c 'len(bytearray(1) * (200 << 20))'; true")).end(0)
    match = re.fullmatch(r"(\d+\.\d) MiB \(largest process\)", ran.facts()["peak memory"])
    assert match and 200 < float(match[1]) < 250
    shutil.rmtree(tmp_path / "logs")
    assert Wrapped(tmp_path, ["true"]).end(0).facts()["peak memory"].startswith("under ")


def test_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "1124_031200")
    names = [Log(tmp_path / "deep" / "logs", "a").path.name for _ in range(3)]
    assert names == ["1124_031200-a.log", "1124_031200-a-2.log", "1124_031200-a-3.log"]


def test_no_log_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ClozeError, match="no log can be written there .* choose another folder with --log-dir"):
            Log(folder, "a")
    command = ("fairseq-cloze", "run", "--log-dir", tmp_path / "file", "touch", tmp_path / "ran")
    assert run(*command, code=1).text == (
        f"Error: {tmp_path / 'file'}: no log can be written there (File exists); choose another folder with --log-dir\n"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["bash", "finetune.sh"], "finetune"),
        (["./long run.sh", "--lr", "1"], "long_run"),
        (["fairseq-train", "data-bin"], "fairseq-train"),
        (["python3.11", "-u", "src/train.py", "--x"], "train"),
        (["python", "-m", "torch.distributed.run", "train.py"], "torch.distributed.run"),
        (["env", "A=1", "nohup", "sleep", "3"], "sleep"),
        (["bash"], "bash"),
        (["python", "--version"], "python"),
        (["..", "x"], "run"),
        (["a" * 300], "a" * 50),
        (["/opt/früh\udcff"], "früh"),
    ],
)
def test_names(command: list[str], name: str) -> None:
    assert safe_name(name_of(command)) == name


def test_duration() -> None:
    assert [duration(t) for t in (0.9, 59.99, 3723.5, 100 * 3600)] == ["0:00:00", "0:00:59", "1:02:03", "100:00:00"]


@pytest.mark.parametrize("words", [["a", "b c", ""], ["it's", "\\n", "a\nb'\t\\c\r\x1b[0m\x7f"], ["ü\udcff", "$x `y`"]])
def test_command_line_can_be_pasted(words: list[str]) -> None:
    line = shell_line(words)
    assert "\n" not in line
    assert words_of(line) == words


def test_nothing_large_is_loaded() -> None:
    code = "import sys, fairseq_cloze.runlog.command, fairseq_cloze.cli.run; print(*sorted(sys.modules))"
    loaded = set(run(sys.executable, "-c", code).text.split())
    assert "fairseq_cloze.runlog.command" in loaded
    assert not loaded & {"torch", "fairseq", "numpy", "matplotlib", "yagmail", "fairseq_cloze.mail.mailer"}


# -- exit status -----------------------------------------------------------------------------------------------------


def test_status_of_a_crash(tmp_path: Path) -> None:
    ran = Wrapped(tmp_path, shell("kill -SEGV $$")).end(139)
    assert ran.facts()["status"] == "139 (SIGSEGV)"


def test_sigchld_ignored_by_the_caller(tmp_path: Path) -> None:
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
    Wrapped(tmp_path, shell("exit 7"), **ignore).end(7)


def test_commands_that_cannot_be_run(tmp_path: Path) -> None:
    def problem(word: str, status: int) -> str:
        ran = Wrapped(tmp_path, [word]).end(status)
        text = ran.output().decode()
        assert ran.err.decode() == f"fairseq-cloze run: log in {ran.log}\nfairseq-cloze run: {text}"
        assert ran.out.decode() == text and ran.facts()["status"] == str(status)
        shutil.rmtree(tmp_path / "logs")
        return text

    for name, mode, text in (("plain", 0o644, "x"), ("bare", 0o755, "true\n"), ("lost", 0o755, "#!/no/such\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    assert problem("no-such-command", 127) == "no-such-command: not found; check its name, and PATH\n"
    assert problem("./plain", 126) == (
        "./plain: cannot be run; a script is run by 'bash ./plain', or made executable by 'chmod +x ./plain'\n"
    )
    assert problem("./bare", 126) == (
        "./bare: is no program; a script without a first line as '#!/bin/sh' is run by 'bash ./bare'\n"
    )
    assert problem("./lost", 127) == (
        "./lost: the interpreter its first line names was not found; check the line that begins with #!\n"
    )


def test_usage() -> None:
    assert "Missing argument '[--] COMMAND...'" in run("fairseq-cloze", "run", code=2).text


# -- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_signals_reach_the_whole_group(tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    ran = Wrapped(tmp_path, python("import os, time; print(os.fork() or os.getpid(), flush=True); time.sleep(300)"))
    pids = until(lambda: [int(pid) for pid in ran.output().split()] if ran.output().count(b"\n") == 2 else None)
    ran.process.send_signal(number)
    ran.end(128 + number)
    assert ran.facts()["status"] == f"{128 + number} ({name})"
    assert ran.facts()["forwarded"] == name
    until(lambda: not any(alive(pid) for pid in pids))


def test_a_command_that_goes_on_after_signals(tmp_path: Path) -> None:
    """It is told each time, is never killed, and its status counts."""
    code = """
import signal, time
told = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: (told.append(number), print(signal.Signals(number).name, flush=True)))
print("ready", flush=True)
while len(told) < 3: time.sleep(0.01)
raise SystemExit(7)
"""
    ran = Wrapped(tmp_path, python(code))
    ran.wait_for("ready\n")
    for number, text in enumerate(["SIGTERM", "SIGINT", "SIGTERM"]):
        assert ran.process.poll() is None
        ran.process.send_signal(signal.Signals[text])
        until(lambda count=number + 1: ran.output().count(b"SIG") == count)
    ran.end(7)
    assert ran.out == b"ready\nSIGTERM\nSIGINT\nSIGTERM\n"
    assert ran.facts()["forwarded"] == "SIGTERM, SIGINT, SIGTERM"


def test_a_command_that_ignores_term(tmp_path: Path) -> None:
    ran = Wrapped(tmp_path, shell("trap '' TERM; echo ready; while [ ! -e go ]; do sleep 0.05; done; exit 5"))
    ran.wait_for("ready\n")
    ran.process.terminate()
    time.sleep(0.3)
    assert ran.process.poll() is None
    (tmp_path / "go").touch()
    ran.end(5)


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """nohup; and Python's own habits do not reach the command."""
    code = "grep SigIgn /proc/self/status; while [ ! -e go ]; do sleep 0.05; done"
    ran = Wrapped(tmp_path, shell(code), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    ran.wait_for("SigIgn")
    ran.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert ran.process.poll() is None
    (tmp_path / "go").touch()
    ran.end(0)
    assert int(ran.output().split()[1], 16) & (1 << 31) - 1 == 1 << (signal.SIGHUP - 1)
    assert "forwarded" not in ran.facts()


# -- output ----------------------------------------------------------------------------------------------------------


def test_bytes_arrive_unharmed(tmp_path: Path) -> None:
    """In the log and on standard output, at once."""
    pieces = [b"\xe2", b"\x82\xac \xff\x00\r\n\x1b[31m", b"\xc3"]
    code = f"""
import os, time
for number, piece in enumerate({pieces!r}):
    os.write(1, piece)
    while not os.path.exists(str(number)): time.sleep(0.01)
"""
    ran = Wrapped(tmp_path, python(code))
    assert ran.process.stdout is not None
    for number, piece in enumerate(pieces):
        until(lambda count=number + 1: ran.output() == b"".join(pieces[:count]))
        assert os.read(ran.process.stdout.fileno(), 100) == piece
        (tmp_path / str(number)).touch()
    ran.end(0)
    assert ran.output() == b"".join(pieces) + b"\n"


def test_a_log_that_is_emptied(tmp_path: Path) -> None:
    """As logrotate's copytruncate does it, and who needs room: what comes afterwards is copied, counted and mailed."""
    line = "2026-11-24 03:12:00 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 1 | num_updates 4"
    code = (
        'seq 1 2000; while [ ! -e go ]; do sleep 0.05; done; echo "$1"; echo end; while [ -e go ]; do sleep 0.05; done'
    )
    ran = Wrapped(tmp_path, ["sh", "-c", code, "sh", line])
    assert ran.process.stdout is not None
    begun = b""
    while not begun.endswith(b"\n2000\n"):
        begun += os.read(ran.process.stdout.fileno(), 1 << 16)
    os.truncate(ran.log, 0)
    (tmp_path / "go").touch()
    until(lambda: b"end\n" in ran.log.read_bytes())
    time.sleep(0.6)  # so that the figures are read before the foot stands there
    (tmp_path / "go").unlink()
    ran.end(0)
    assert ran.out.decode() == f"{line}\nend\n"
    assert ran.log.read_text().startswith(f"{line}\nend\n# ended: ")
    assert ran.facts()["last metrics"] == "valid loss 1 at update 4"


def test_a_command_that_closes_its_output(tmp_path: Path) -> None:
    ran = Wrapped(tmp_path, shell("echo before; exec >&- 2>&-; sleep 0.7; exit 4")).end(4)
    assert ran.output() == b"before\n"


def test_a_daemon_that_keeps_the_output_open(tmp_path: Path) -> None:
    """It holds nothing up, and is left alone."""
    ran = Wrapped(tmp_path, shell("sleep 300 & echo $!; exit 2")).end(2)
    pid = int(ran.out)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


FLOOD = """
import os
line = b"x" * 99 + b"\\n"
for _ in range({megabytes} * 10): os.write(1, line * 1000)
"""


def _flood(tmp_path: Path, megabytes: int) -> None:
    ran = Wrapped(tmp_path, python(FLOOD.format(megabytes=megabytes)))
    assert ran.process.stdout is not None
    size, peak = 0, 0
    while block := os.read(ran.process.stdout.fileno(), 1 << 20):
        size += len(block)
        for line in Path(f"/proc/{ran.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]))
    ran.end(0)
    assert size == megabytes * 1_000_000
    assert size < ran.log.stat().st_size < size + 2000
    assert 10_000 < peak < 60_000, f"{peak} KiB"
    ran.log.unlink()


def test_flood(tmp_path: Path) -> None:
    """Memory stays flat; nothing is lost."""
    _flood(tmp_path, 200)


@pytest.mark.slow
def test_flood_of_gigabytes(tmp_path: Path) -> None:
    _flood(tmp_path, 2000)


def test_a_slow_reader_holds_nothing_up(tmp_path: Path) -> None:
    """The command ends and the log is complete before anybody has read a byte; then all is there."""
    ran = Wrapped(tmp_path, python(FLOOD.format(megabytes=5)))
    until(lambda: "peak memory" in ran.facts())
    assert ran.process.poll() is None
    ran.end(0)
    assert ran.out == (b"x" * 99 + b"\n") * 50_000 and ran.output() == ran.out


def test_nobody_reads_any_more(tmp_path: Path) -> None:
    code = "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; sleep 0.5; echo three; exit 6"
    ran = Wrapped(tmp_path, shell(code))
    ran.wait_for("one\n")
    assert ran.process.stdout is not None
    ran.process.stdout.close()
    (tmp_path / "go").touch()
    assert ran.process.wait(LIMIT) == 6
    assert ran.process.stderr is not None
    assert ran.process.stderr.read().decode() == f"fairseq-cloze run: log in {ran.log}\n"
    assert ran.output() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_no_standard_files(tmp_path: Path, closed: str) -> None:
    """The log does not become standard output, and is not copied into itself."""
    command = f"cd {quoted(tmp_path)}; fairseq-cloze run --name x -- sh -c 'echo one; sleep 1; echo two' {closed}"
    run("sh", "-c", command)
    [log] = (tmp_path / "logs").iterdir()
    assert re.findall(r"^(?!# ).*\n", log.read_text(), re.M) == ["one\n", "two\n"]


def test_notes_in_the_log(tmp_path: Path) -> None:
    """What somebody else appends is not written over."""
    ran = Wrapped(tmp_path, shell("echo one; while [ ! -e go ]; do sleep 0.05; done; echo two"))
    ran.wait_for("one\n")
    with ran.log.open("a") as log:
        log.write("a note\n")
    (tmp_path / "go").touch()
    assert ran.end(0).output() == b"one\na note\ntwo\n"


def test_kill_9(tmp_path: Path) -> None:
    """The command goes on, and its log is complete."""
    code = "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; echo three >&2; touch gone"
    ran = Wrapped(tmp_path, shell(code))
    ran.wait_for("one\n")
    ran.process.kill()
    assert ran.process.wait(LIMIT) == -signal.SIGKILL
    (tmp_path / "go").touch()
    until((tmp_path / "gone").exists)
    assert ran.output() == b"one\ntwo\nthree\n"
    assert "status" not in ran.facts() and ran.facts()["folder"] == str(tmp_path)


def test_log_that_is_full(tmp_path: Path) -> None:
    """The command is told by the system, as with any file; its status counts."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    ran = Wrapped(tmp_path, shell("trap '' XFSZ; head -c 30000 /dev/zero; exit 9"), preexec_fn=limit)
    ran.out, ran.err = ran.process.communicate(timeout=LIMIT)
    assert ran.process.returncode == 9
    assert b"cannot be written (File too large)" in ran.err


# -- scripts/log.sh --------------------------------------------------------------------------------------------------


def _script(folder: Path, *command: str, **env: str) -> Any:
    return run("bash", folder / "scripts" / "log.sh", *command, cwd=folder, code=3, env=env)


def test_script(tmp_path: Path) -> None:
    """From any folder, with fairseq-cloze on PATH."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "log.sh", tmp_path / "scripts")
    (tmp_path / "finetune.sh").write_text('echo "$@"; exit 3')
    text = _script(tmp_path, "bash", "finetune.sh", "--email", "a b", FAIRSEQ_CLOZE_EMAIL="").text
    [log] = (tmp_path / "logs").iterdir()
    assert re.fullmatch(r"\d{4}_\d{6}-finetune\.log", log.name)
    assert text == f"fairseq-cloze run: log in {log}\n--email a b\n"


def test_script_in_a_repository(tmp_path: Path) -> None:
    """The virtual environment of the repository comes first."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "log.sh", tmp_path / "scripts")
    program = tmp_path / ".venv" / "bin" / "fairseq-cloze"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nprintf '[%s]' \"$@\"\nexit 3\n")
    program.chmod(0o755)
    text = _script(tmp_path, "ls", "-l").text
    assert text == "[run][--][ls][-l]"


def test_script_without_anything(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "log.sh", tmp_path / "scripts")
    path = "/usr/bin:/bin"
    if shutil.which("fairseq-cloze", path=path):
        pytest.skip("fairseq-cloze is installed for the whole system")
    ran = run("bash", tmp_path / "scripts" / "log.sh", "true", code=127, env={"PATH": path})
    assert "install it with 'bash scripts/setup.sh fairseq'" in ran.text
