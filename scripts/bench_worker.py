"""A process that measures, one for each environment and each commit, and the line to it.

Requests are lines of JSON on its standard input, replies lines of JSON on its standard output::

    {"do": "call", "function": "bench_ours:write_inputs", "job": {...}}        → {"result": ...}
    {"do": "build", "function": "bench_ours:scoring", "job": {...}}            → {"result": {"contestants": ...}}
    {"do": "run", "contestant": "float32", "size": 8}                          → {"result": {"rate": 75.2, ...}}

A failure is ``{"error": message}``.  What else it prints goes into a file.  It ends where its standard input does.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class WorkerError(Exception):
    """A worker cannot do what it was asked, with the reason in one line."""


class Worker:
    """The other side of such a process.

    Args:
        python: interpreter of its environment
        package: folder that ``fairseq_cloze`` is imported from; ``None`` where it is not needed
        threads: of torch
        log: file for what it prints
    """

    def __init__(self, python: Path, package: Path | None, threads: int, log: Path) -> None:
        self.log = log
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        env |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        if package:
            env["PYTHONPATH"] = f"{package}:{os.environ.get('PYTHONPATH', '')}"
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [str(python), __file__, str(package or ""), str(threads)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def ask(self, do: str, **request: Any) -> Any:
        """Ask and wait.

        Raises:
            WorkerError: it failed
        """
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:  # it has ended
            line = ""
        if not line:
            said = self.log.read_text(errors="replace").strip().splitlines()
            code = self.process.wait()
            raise WorkerError(f"its process ended with status {code}: {said[-1] if said else 'without a word'}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply["result"]

    def stop(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()


def resolve(function: str) -> Any:
    """What ``module:name`` names."""
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


class _Requests:
    """What can be asked of a worker."""

    device = "cpu"

    def __init__(self) -> None:
        self.contestants: dict[str, Any] = {}
        self.works: dict[str, tuple[int, Any]] = {}
        self.returned: dict[str, Any] = {}

    def call(self, function: str, job: dict[str, Any]) -> Any:
        """Call a function with a job."""
        return resolve(function)(job)

    def build(self, function: str, job: dict[str, Any], who: str) -> dict[str, Any]:
        """Make contestants; their names begin with *who*."""
        built = resolve(function)(job)
        contestants = {f"{who} {name}": each for name, each in built.contestants.items()}
        self.contestants |= contestants
        about = {name: {"of": each.of, "seconds": each.seconds} for name, each in contestants.items()}
        return {"contestants": about, "facts": built.facts}

    def run(self, contestant: str, size: int) -> dict[str, Any]:
        """Let one work on *size* of what it works on; its rate and its time."""
        from bench_measure import synchronize

        if self.works.get(contestant, (None,))[0] != size:
            self.works[contestant] = (size, self.contestants[contestant].take(size))
        work = self.works[contestant][1]
        synchronize(self.device)
        start = time.perf_counter()
        found = work.run()
        synchronize(self.device)
        seconds = time.perf_counter() - start
        self.returned[contestant] = found
        return {"rate": work.amount / seconds if work.amount is not None else found, "seconds": seconds}

    def found(self, contestant: str) -> list[int]:
        """What the last work of one returned."""
        return [int(each) for each in self.returned[contestant]]

    def forget(self) -> None:
        """All contestants."""
        import gc

        self.contestants, self.works, self.returned = {}, {}, {}
        gc.collect()


def _serve(package: str, threads: int) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print
    import logging

    import torch

    logging.disable(logging.INFO)  # fairseq's
    torch.set_num_threads(threads)
    if package:
        import fairseq_cloze

        found = Path(fairseq_cloze.__file__).parent.parent
        if found != Path(package):
            raise SystemExit(f"fairseq_cloze: expected that of {package}, found that of {found}")
    else:
        # transformers 5.x imports it; what ve-fairseq pulls in is a CUDA build that does not load beside a CPU torch
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
    requests = _Requests()
    for line in sys.stdin:
        request = json.loads(line)
        if "job" in request:
            requests.device = request["job"].get("device", "cpu")
        try:
            reply = {"result": getattr(requests, request.pop("do"))(**request)}
        except (Exception, SystemExit) as error:
            import traceback

            traceback.print_exc()
            text = " ".join(str(error).split()) or type(error).__name__
            reply = {"error": text if isinstance(error, SystemExit) else f"{type(error).__name__}: {text}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    try:
        _serve(sys.argv[1], int(sys.argv[2]))
    except KeyboardInterrupt:  # the one who asks says it
        sys.exit(130)
