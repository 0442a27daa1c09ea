"""Surroundings: what a command runs on, as one line each, for the head of its log.

Nothing here fails or takes long: what cannot be found out is said to be unknown.  Versions are read from the metadata
of the installed packages, so neither torch nor fairseq is loaded.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from importlib import metadata

from ..version import __version__

_PATIENCE = 10.0  # seconds that git or nvidia-smi may take
_PLAIN = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}


def surroundings(command: Sequence[str]) -> dict[str, str]:
    """Names and values, none of which has a line break."""
    return {
        "command": shell_line(command),
        "folder": one_line(os.getcwd()),
        "revision": revision(),
        "host": one_line(f"{platform.node()} ({platform.system()} {platform.release()}, {os.cpu_count()} CPUs)"),
        "gpu": gpu(),
        "versions": versions(),
    }


def shell_line(command: Sequence[str]) -> str:
    """The command as it can be pasted into bash, on one line."""
    return " ".join(
        _ansi_quoted(word) if re.search(r"[\x00-\x1f\x7f]", word) else shlex.quote(word) for word in command
    )


def _ansi_quoted(word: str) -> str:
    escaped = (_PLAIN.get(c) or (c if c >= " " and c != "\x7f" else f"\\x{ord(c):02x}") for c in word)
    return f"$'{''.join(escaped)}'"


def one_line(text: str) -> str:
    """The text with line breaks as spaces."""
    return " ".join(text.splitlines())


def revision() -> str:
    """Commit and branch of the git repository around the working folder, and whether it is as committed."""
    answer = _output("git", "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if answer is None:
        return "none (no git repository here)"
    lines = answer.splitlines()
    facts = dict(line[len("# branch.") :].split(" ", 1) for line in lines if line.startswith("# branch."))
    changed = sum(not line.startswith("#") for line in lines)
    state = f"uncommitted changes in {changed} files" if changed else "no uncommitted changes"
    return f"{facts.get('oid', 'unknown')} on {facts.get('head', 'unknown')}, {state}"


def gpu() -> str:
    """GPUs by nvidia-smi, and the choice among them by ``CUDA_VISIBLE_DEVICES``."""
    if shutil.which("nvidia-smi") is None:
        return "none"
    answer = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if answer is None:
        return "unknown (nvidia-smi failed)"
    found = ", ".join(f"{number} x {name}" for name, number in Counter(answer.strip().splitlines()).items())
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return one_line(found if chosen is None else f"{found}; CUDA_VISIBLE_DEVICES={chosen}")


def versions() -> str:
    """Versions of Python, torch, fairseq and this package, of the environment this package runs in."""
    found = {name: _version(name) for name in ("torch", "fairseq", "ve-fairseq")}
    parts = [f"{name} {version}" for name, version in found.items() if version]
    return ", ".join([f"python {platform.python_version()}", *parts, f"fairseq-cloze {__version__}"])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            env=environ,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.decode(errors="replace")
