"""Let every writing call of a command fail, one after the other: ``python -m user_dir_tests.attacks.faults [NAME...]``.

Each command runs once as it is, under :file:`faults.c`, which counts the calls.  Then it runs once for each call and
each kind of fault.  It has to end with a status and a line, and with what it was told to write whole, as it was before,
or not there; the next run has to end well, and nothing may be left over.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..support.commands import FINETUNE, PASSAGES, ROOT, TRAIN_OPTIONS
from ..support.mail_server import Server

SHIM = Path(__file__).with_name("faults.c")
KINDS = ("ENOSPC", "EIO", "short")
MINI = ROOT / "examples" / "pretrained" / "mini"
SECONDS = 120.0

#: What a command wrote, by name; ``None`` for a folder.
Tree = dict[str, bytes | None]


@dataclass(frozen=True)
class Command:
    """A command whose writing fails; it runs in a folder of its own and writes to ``out`` there."""

    words: Callable[[Path], Sequence[object]]  #: from the folder of inputs to the command line
    same: bool = True  #: two runs write the same
    before: Callable[[Path], None] = lambda home: None  #: what happens first, with the home folder
    after: Callable[[Path], object] = lambda out: None  #: what must be as ever once it ran again, with ``out``
    program: str = "fairseq-cloze"


def inputs(folder: Path) -> None:
    """Make what the commands read, once."""
    passages = folder / "passages"
    passages.mkdir(parents=True)
    for path in sorted((PASSAGES / "valid").glob("*.json"))[:3]:
        shutil.copy(path, passages)
    (folder / "prose.txt").write_text((ROOT / "examples" / "prose" / "stories.txt").read_text()[:20_000])
    shutil.copytree(MINI, folder / "weights", copy_function=shutil.copyfile)
    cli(["prepare", "--valid", passages, "--pretrained", MINI, "--out", folder / "bin", "--workers", 1])
    cli(["export-hf", MINI / "model.pt", "--out", folder / "hf"])
    cli(["predict", MINI / "model.pt", passages, "--out", folder / "answers.json", "--scores"])
    import torch

    state = torch.load(MINI / "model.pt", weights_only=False)
    state["model"]["encoder.lm_head.bias"] += 0.1
    with open(folder / "other.pt", "wb") as file:
        torch.save(state, file)


def spool_a_mail(home: Path) -> None:
    """Let a mail wait."""
    from fairseq_cloze.mail.message import Mail, compose
    from fairseq_cloze.mail.settings import MailSettings
    from fairseq_cloze.mail.spool import Entry

    settings = MailSettings("127.0.0.1", security="plain", sender="me@example.org", to=("a@example.org",))
    Entry.create(home / "state" / "fairseq-cloze" / "mail", compose(Mail("done", "all is well"), settings)).close()


def two_checkpoints(home: Path) -> None:
    """What a watch scores; what failed is tried again soon, and left to the next watch after a second."""
    import torch

    from fairseq_cloze.watch import arrivals, watcher

    arrivals.PAUSES, watcher.LET_GO = (0.1, 0.2), 1.0
    state = torch.load(MINI / "model.pt", weights_only=False)
    for number in (1, 2):
        state["optimizer_history"] = [{"num_updates": number}]
        with open(home.parent / "out" / f"checkpoint_1_{number}.pt", "wb") as file:
            torch.save(state, file)


def scored(out: Path) -> object:
    """Names of checkpoints with a score, as often as they were scored, and what else there is."""
    from fairseq_cloze.watch.records import read_validation

    lines = read_validation(out / "validation.jsonl", print)
    return sorted(line["checkpoint"] for line in lines if "accuracy" in line), sorted(tree(out))


def losses(out: Path) -> object:
    """Those of all updates, each once; and what there is."""
    from fairseq_cloze.runs.curves import history_of
    from fairseq_cloze.runs.events import read_events

    curve = history_of(read_events(out / "metrics.jsonl")).curve("loss")
    return [(update, round(loss, 5)) for update, loss in curve], sorted(tree(out))


COMMANDS: dict[str, Command] = {
    "prepare": Command(
        lambda at: (
            *("prepare", "--valid", at / "passages", "--pretrained", at / "weights"),
            *("--out", "out/bin", "--workers", 1, "--overwrite"),
        )
    ),
    "predict": Command(lambda at: ("predict", at / "weights/model.pt", at / "passages", "--out", "out/answers.json")),
    "evaluate": Command(
        lambda at: (
            *("evaluate", at / "weights/model.pt", at / "bin", "--split", "valid"),
            *("--json", "out/figures.json", "--predictions", "out/answers.json"),
        ),
        same=False,
    ),
    "calibrate": Command(
        lambda at: (
            *("calibrate", at / "weights/model.pt", at / "bin", "--split", "valid"),
            *("--out", "out/calibrated.pt"),
        )
    ),
    "average": Command(lambda at: ("average", at / "weights/model.pt", at / "other.pt", "--out", "out/mean.pt")),
    "export-hf": Command(lambda at: ("export-hf", at / "weights/model.pt", "--out", "out/hf")),
    "import-hf": Command(lambda at: ("import-hf", at / "hf", "--out", "out/weights")),
    "generate": Command(lambda at: ("generate", at / "prose.txt", "--out", "out/made.jsonl", "--workers", 1)),
    "learn-bpe": Command(lambda at: ("learn-bpe", at / "passages", "--size", 400, "--out", "out/bpe")),
    "report": Command(
        lambda at: (
            "report",
            at / "answers.json",
            "--passages",
            at / "passages",
            "--out",
            "out/page.html",
            "--png",
            "out/png",
        ),
        same=False,
    ),
    "run": Command(
        lambda at: (
            *("run", "--log-dir", "out/logs", "--name", "job", "--email", "a@example.org", "--"),
            *(sys.executable, "-c", "print('done')"),
        ),
        same=False,
    ),
    "mail": Command(lambda at: ("mail", "flush"), before=spool_a_mail),
    "watch": Command(
        lambda at: ("watch", "out", at / "bin", "--until-idle", "1s", "--all"),
        same=False,
        before=two_checkpoints,
        after=scored,
    ),
    "train": Command(
        lambda at: (
            *(at / "bin", *TRAIN_OPTIONS, "--train-subset", "valid", "--disable-validation", "--max-tokens", 512),
            *("--finetune-from-model", at / "weights" / "model.pt", *FINETUNE[:2], "--save-dir", "out"),
            *("--max-update", 4, "--save-interval-updates", 2),
        ),
        same=False,
        after=losses,
        program="fairseq-train",
    ),
}


def cli(words: Sequence[object]) -> None:
    """Run a command of ours in this process."""
    from fairseq_cloze.cli import main

    main([str(word) for word in words], standalone_mode=False)


def build(folder: Path) -> Path:
    """Compile the shim."""
    library = folder / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    return library


def tree(folder: Path) -> Tree:
    """All that lies in a folder."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def entry(program: str) -> Callable[[], object]:
    """What a program of the command line calls."""
    if program == "fairseq-train":
        from fairseq_cli.train import cli_main

        return cli_main
    from fairseq_cloze.cli import main

    return main


class Workplace:
    """A folder in which a command runs again and again, with its own temporary folder and spool of mail."""

    def __init__(self, folder: Path, name: str, at: Path, port: int) -> None:
        self.folder, self.command, self.port = folder, COMMANDS[name], port
        self.words = [str(word) for word in self.command.words(at)]

    def clear(self) -> None:
        """Empty everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("out", "tmp", "home"):
            (self.folder / name).mkdir(parents=True)
        self.command.before(self.folder / "home")

    def run(self, **faults: str) -> tuple[int, str]:
        """Run the command in a child of this process, which has torch imported; status and standard error."""
        said = self.folder / "said"
        child = os.fork()
        if not child:
            atexit._clear()  # the folders of the parent stay
            status = self._child(said, faults)
            atexit._run_exitfuncs()
            os._exit(status)
        end = time.monotonic() + SECONDS
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), said.read_text(errors="replace")
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return -9, "hangs"
            time.sleep(0.005)

    def _child(self, said: Path, faults: dict[str, str]) -> int:
        os.setsid()
        out = os.open(said, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for fd, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(os.devnull, os.O_WRONLY)), (2, out)):
            os.dup2(source, fd)
        os.chdir(self.folder)
        mail = {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "SECURITY": "plain",
            "FROM": "me@example.org",
            "TO": "me@example.org",
        }
        home = self.folder / "home"
        os.environ.update(
            {f"FAIRSEQ_CLOZE_MAIL_{key}": value for key, value in mail.items()},
            HOME=str(home),
            XDG_CONFIG_HOME=str(home / "config"),
            XDG_STATE_HOME=str(home / "state"),
            TMPDIR=str(self.folder / "tmp"),
            FAULT_UNDER=":".join(str(self.folder / name) for name in ("out", "tmp", "home")),
            **faults,
        )
        tempfile.tempdir = None
        try:
            sys.argv = [self.command.program, *self.words]
            entry(self.command.program)()
        except SystemExit as error:
            sys.stderr.flush()
            return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:  # as the interpreter would
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            return 1
        return 0

    def left(self) -> list[str]:
        """What should not lie here after a run: unfinished files, and whatever lies in TMPDIR but torch's own cache."""
        out = tree(self.folder / "out")
        temporary = [name for name in tree(self.folder / "tmp") if not name.startswith("torchinductor_")]
        unfinished = [name for name in out if ".fairseq-cloze-" in name or name.endswith((".tmp", ".partial"))]
        spooled = [name for name in tree(self.folder / "home") if name.endswith(".tmp")]
        return [*unfinished, *temporary, *spooled]


def attack(name: str, at: Path, folder: Path, port: int, every: int = 1) -> Iterator[tuple[int, str, str]]:
    """Run a command with each fault; number of the call, kind of fault, and what is wrong, ``""`` where nothing is."""
    place = Workplace(folder, name, at, port)
    place.clear()
    counted = folder / "calls"
    status, said = place.run(FAULT_COUNT=str(counted))
    assert status == 0, said
    calls, whole, usual = counted.stat().st_size, tree(folder / "out"), place.command.after(folder / "out")
    assert calls > 0
    for kind in KINDS:
        for number in range(1, calls + 1, every):
            for stays in ("", "1") if kind == "ENOSPC" else ("",):
                place.clear()
                fault = {"FAULT_AT": str(number), "FAULT_AS": kind, **({"FAULT_STAYS": "1"} if stays else {})}
                wrong = _one(place, whole, **fault)
                if not wrong and (found := place.command.after(folder / "out")) != usual:
                    wrong = f"after the next run {found!r:.400} instead of {usual!r:.400}"
                yield number, f"{kind}{' from there on' if stays else ''}", wrong


def _one(place: Workplace, whole: Tree, **faults: str) -> str:
    status, said = place.run(**faults)
    if "Traceback" in said:
        return f"traceback, status {status}:\n{said[-600:]}"
    if status < 0:
        return f"died of signal {-status}: {said}"
    if status and not said.strip():
        return f"status {status} without a word"
    out = tree(place.folder / "out")
    if status == 0 and place.command.same and out != whole:
        return f"status 0, but {_difference(out, whole)}"
    left = [name for name in place.left() if not name.endswith(".partial") and ".partial/" not in name]
    if left:
        return f"leaves {', '.join(left)} ({said.strip()[-200:]})"
    half = [name for name, content in out.items() if place.command.same and name in whole and content != whole[name]]
    if half and not any(".partial" in name for name in out):
        return f"status {status}, but half-written: {', '.join(half)}"
    status, said = place.run()
    if status or place.left():
        return f"the next run: status {status}, leaves {place.left()}: {said}"
    if place.command.same and (out := tree(place.folder / "out")) != whole:
        return f"after the next run {_difference(out, whole)}"
    return ""


def _difference(found: Tree, expected: Tree) -> str:
    names = [name for name in {**found, **expected} if found.get(name, 0) != expected.get(name, 0)]
    return f"not as it should be: {', '.join(names)}"


def inside(names: Sequence[str], every: int) -> int:
    """What runs under the shim."""
    import torch  # noqa: F401

    if "train" in names:
        entry("fairseq-train")
    found = 0
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        at = Path(folder, "inputs")
        inputs(at)
        for name in names:
            runs, wrong = 0, []
            for number, kind, what in attack(name, at, Path(folder, "place"), server.port, every):
                runs += 1
                if what:
                    wrong.append(f"  call {number}, {kind}: {what}")
            print(f"{name}: {runs} faults, {len(wrong)} findings", *wrong, sep="\n", flush=True)
            found += len(wrong)
    return 1 if found else 0


def main() -> int:
    """Start this module again under the shim."""
    parser = argparse.ArgumentParser(prog="python -m user_dir_tests.attacks.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COMMANDS)}; all by default")
    parser.add_argument("--every", type=int, default=1, help="let every n-th call fail (default: each)")
    args = parser.parse_args()
    if unknown := sorted({*args.names} - {*COMMANDS}):
        parser.error(f"no command {', '.join(unknown)}")
    if "faults.so" in os.environ.get("LD_PRELOAD", ""):
        return inside(args.names or [*COMMANDS], args.every)
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "LD_PRELOAD": str(build(Path(folder))), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return subprocess.run([sys.executable, "-m", f"{__package__}.faults", *sys.argv[1:]], env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
