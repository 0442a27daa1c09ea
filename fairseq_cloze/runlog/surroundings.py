"""Surroundings: what a command runs on, as one line each, for the head of its log.

Nothing here fails or takes long, or loads torch: what cannot be found out is said to be unknown.
"""

import os
import platform
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from subprocess import DEVNULL, TimeoutExpired, run

from ..secrecy import hide_in_command, hide_secrets
from ..version import __version__

_PATIENCE = 10.0  # seconds that git or nvidia-smi may take
_PLAIN = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}


def surroundings(command: Sequence[str]) -> dict[str, str]:
    """Names and values, none of which has a line break."""
    return {
        "command": shell_line(hide_in_command(command)),
        "folder": _folder(),
        "revision": _revision(),
        "host": one_line(f"{platform.node()} ({platform.system()} {platform.release()}, {os.cpu_count()} CPUs)"),
        "gpu": _gpu(),
        "versions": _versions(),
    }


def shell_line(command: Sequence[str]) -> str:
    """The command as it can be pasted into bash, on one line."""

    def quoted(word: str) -> str:
        if not re.search(r"[\x00-\x1f\x7f]", word):
            return shlex.quote(word)
        escaped = re.sub(r"[\x00-\x1f\x7f\\']", lambda found: _PLAIN.get(found[0], f"\\x{ord(found[0]):02x}"), word)
        return f"$'{escaped}'"

    return " ".join(map(quoted, command))


def one_line(text: str) -> str:
    """The text with line breaks as spaces."""
    return " ".join(text.splitlines())


def _folder() -> str:
    try:
        return one_line(os.getcwd())
    except OSError as error:  # it was removed
        return f"unknown ({error.strerror})"


def _revision() -> str:
    """Commit and branch of the git repository around the working folder, and whether it is as committed."""
    # Without the program that a repository's configuration may name to watch its files
    git = ("git", "-c", "core.fsmonitor=false", "status")
    answer, problem = _output(*git, "--porcelain=v2", "--branch", "--untracked-files=no")
    if "not a git repository" in problem:
        return "none (no git repository here)"
    if problem:
        return f"unknown (git: {problem})"
    lines = answer.splitlines()
    facts = dict(line.removeprefix("# branch.").partition(" ")[::2] for line in lines if line.startswith("# branch."))
    changed = sum(not line.startswith("#") for line in lines)
    state = f"uncommitted changes in {changed} files" if changed else "no uncommitted changes"
    return f"{facts.get('oid', 'unknown')} on {facts.get('head', 'unknown')}, {state}"


def _gpu() -> str:
    """GPUs by nvidia-smi, and the choice among them by ``CUDA_VISIBLE_DEVICES``."""
    if shutil.which("nvidia-smi") is None:
        return "none"
    answer, problem = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if problem:
        return f"unknown (nvidia-smi failed: {problem})"
    found = ", ".join(f"{number} x {name}" for name, number in Counter(answer.strip().splitlines()).items())
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return one_line(found if chosen is None else f"{found}; CUDA_VISIBLE_DEVICES={chosen}")


def _versions() -> str:
    parts = [f"python {platform.python_version()}"]
    for name in ("torch", "fairseq", "ve-fairseq"):
        with suppress(metadata.PackageNotFoundError):
            parts.append(f"{name} {metadata.version(name)}")
    return ", ".join([*parts, f"fairseq-cloze {__version__}"])


def _output(*command: str) -> tuple[str, str]:
    """What a command says, and why it cannot be asked; that is empty where it can."""
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        ran = run(command, stdin=DEVNULL, capture_output=True, timeout=_PATIENCE, env=environ)
    except FileNotFoundError:
        return "", "not found"
    except TimeoutExpired:
        return "", f"no answer within {_PATIENCE:g} s"
    except OSError as error:
        return "", error.strerror or str(error)
    if ran.returncode:
        said = one_line(ran.stderr.decode(errors="replace").strip().partition("\n")[0]).removeprefix("fatal: ")
        return "", hide_secrets(said) or f"status {ran.returncode}"
    return ran.stdout.decode(errors="replace"), ""
