"""Who is measured beside this project, and the environments they run in."""

from __future__ import annotations

import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench_measure import version_of

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / "work" / "bench"


@dataclass(frozen=True)
class Peer:
    """Somebody to compare with.

    Attributes:
        parts: function that makes its contestants, by part of the benchmark
        package: what it needs beside torch, as pip calls it; none if it needs this project's dependencies
        own: it has an environment of its own, even where no version is asked for
    """

    parts: dict[str, str]
    package: str = ""
    own: bool = False


#: To add one: a function from a job to :class:`bench_measure.Built`, and a row here.
PEERS = {
    "transformers": Peer(
        {"scoring": "bench_transformers:scoring", "training": "bench_transformers:training"}, "transformers"
    ),
    "sentence_ranking": Peer(
        {"scoring": "bench_sentence_ranking:scoring", "prepare": "bench_sentence_ranking:preparation"}
    ),
    "multiple-choice": Peer({"scoring": "bench_transformers:multiple_choice"}, "transformers"),
    "cross-encoder": Peer({"scoring": "bench_cross_encoder:scoring"}, "sentence-transformers"),
    "minicons": Peer({"scoring": "bench_minicons:scoring"}, "minicons", own=True),
}
DEFAULT = ("transformers", "sentence_ranking", "multiple-choice")


def split(name: str) -> tuple[str, str]:
    """``transformers==5.24.0`` as the peer and its version, which may be empty.

    Raises:
        ValueError: there is no such peer, or it has no versions
    """
    peer, _, version = name.partition("==")
    if peer not in PEERS:
        raise ValueError(f"expected some of {', '.join(PEERS)}, the version behind '==', found {name}")
    if version and not PEERS[peer].package:
        raise ValueError(f"{peer} comes with fairseq and has no version of its own, found {name}")
    return peer, version


def interpreter(name: str) -> Path:
    """Python of the environment of a peer; made by pip where it is not there.

    It is the one that runs where that has what the peer needs.  An own one sees all packages of that, too, but for what
    it has itself: torch is the same, unless the peer refuses it.

    Raises:
        OSError: it cannot be made
    """
    peer, version = split(name)
    package = PEERS[peer].package
    found = version_of(package) if package else ""
    if not package or (found and not PEERS[peer].own and version in ("", found)):
        return Path(sys.executable)
    wanted = f"{package}=={version}" if version else package
    folder = ENVIRONMENTS / wanted
    python, mark = folder / "bin" / "python", folder / "installed"
    if not mark.is_file():
        print(f"installing {wanted} into {folder} (once)", file=sys.stderr, flush=True)
        _run(sys.executable, "-m", "venv", "--clear", folder)
        [packages] = (folder / "lib").glob("python*/site-packages")
        (packages / "below.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted)
        mark.write_text(f"{wanted}\n")
    return python


def _run(*command: object) -> None:
    ran = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if ran.returncode:
        said = [line for line in ran.stdout.splitlines() if "ERROR" in line] or ran.stdout.splitlines() or ["no reason"]
        raise OSError(said[-1])
