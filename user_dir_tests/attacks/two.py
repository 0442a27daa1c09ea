"""Two of everything in one folder: ``python -m user_dir_tests.attacks.two [NAME...] --times 3``.

Two commands that write the same begin at almost the same moment.  Both end well, or one is refused in a line; what
stands there in the end is one's or the other's, whole, and nothing is left over.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..support.commands import PASSAGES
from ..support.mail_server import Server
from . import faults, kill
from .faults import tree
from .kill import SECONDS, Job, Place


@dataclass(frozen=True)
class Pair:
    """A job, and a second command that writes to the same place; the same one where there is none."""

    job: Job
    other: Callable[[Path], Sequence[object]] | None = None


def _pair(words: str, check: Callable[[Place], object] = lambda place: tree(place.folder / "out")) -> Pair:
    """Of a command of ours; ``{mine}`` in its words is the folder with the inputs of one, or of the other."""

    def of(letter: str) -> Callable[[Path], Sequence[object]]:
        return lambda at: ("fairseq-cloze", *(word.format(all=at, mine=at / letter) for word in words.split()))

    return Pair(Job(of("a"), check), of("b"))


def _whole_page(place: Place) -> object:
    """Which files there are, each with its end; what a report holds is another one each minute."""
    paths = sorted(path for path in (place.folder / "out").rglob("*") if path.is_file())
    assert all(path.read_bytes().endswith((b"</html>\n", b"IEND\xaeB`\x82")) for path in paths)
    return paths


def _once(place: Place) -> object:
    """Each mail came once, and none waits."""
    ids = Counter(str(received.message["Message-ID"]) for received in place.server.received)
    return sorted(ids.values()), sorted(tree(place.folder / "home" / "state" / "fairseq-cloze" / "mail"))


PAIRS: dict[str, Pair] = {
    **{name: Pair(kill.JOBS[name]) for name in ("prepare", "generate", "train", "watch")},
    "mail": Pair(replace(kill.JOBS["mail"], check=_once)),
    "average": _pair("average {mine}/model.pt {all}/weights/model.pt --out out/mean.pt"),
    "clean": _pair("clean {mine}/model.pt out/clean.pt"),
    "export-hf": _pair("export-hf {mine}/model.pt --out out/hf"),
    "import-hf": _pair("import-hf {mine}/hf --out out/weights"),
    "learn-bpe": _pair("learn-bpe {mine}/text --size 300 --out out/bpe"),
    "predict": _pair("predict {mine}/model.pt {mine}/text --out out/answers.json"),
    "report": _pair("report {mine}/answers.json --out out/page.html --png out/png", _whole_page),
}


def inputs(at: Path) -> None:
    """What both read: weights with vocabulary, passages, and what is made of them, in folders ``a`` and ``b``."""
    import torch

    faults.inputs(at)
    state = torch.load(at / "weights" / "model.pt", weights_only=False)
    for letter, passages in (("a", slice(0, 3)), ("b", slice(3, 6))):
        mine = at / letter
        shutil.copytree(at / "weights", mine)
        state["model"]["encoder.lm_head.bias"] += 0.1
        with open(mine / "model.pt", "wb") as file:
            torch.save(state, file)
        (mine / "text").mkdir()
        for path in sorted((PASSAGES / "valid").glob("*.json"))[passages]:
            shutil.copy(path, mine / "text")
        faults.cli(["export-hf", mine / "model.pt", "--out", mine / "hf"])
        faults.cli(["predict", mine / "model.pt", mine / "text", "--out", mine / "answers.json", "--scores"])


def attack(name: str, folder: Path, at: Path, server: Server, draw: random.Random, times: int) -> list[str]:
    """Let two run at once, *times* times; what was wrong."""
    pair, alone, wrong, refused = PAIRS[name], [], [], 0
    both = [pair.job.words(at), (pair.other or pair.job.words)(at)]
    for words in both:
        place = Place(folder, at, server)
        pair.job.before(place)
        start = time.monotonic()
        assert place.run(words) == 0, place.said
        lasts = time.monotonic() - start
        alone.append(pair.job.check(place))
    for number in range(times):
        place = Place(folder, at, server)
        pair.job.before(place)
        later = draw.choice((0.0, draw.uniform(0, lasts)))
        first = place.start(both[0])
        time.sleep(later)
        second = place.start(both[1])
        statuses = [process.wait(SECONDS) for process in (first, second)]
        try:
            assert 0 in statuses and "Traceback" not in place.said, f"{statuses}: {place.said[-900:]}"
            assert statuses == [0, 0] or " another " in place.said, place.said[-900:]
            found = pair.job.check(place)
            assert found in alone, f"{found!r:.300} instead of {alone!r:.300}"
            assert not place.left(), f"left: {place.left()}"
        except (AssertionError, OSError, ValueError) as error:
            wrong.append(f"  pair {number + 1}, the second after {later:.2f} s: {error!r:.1200}")
        refused += statuses != [0, 0]
    print(
        f"{name}: {times} pairs, one of them refused in {refused}, {len(wrong)} findings", *wrong, sep="\n", flush=True
    )
    return wrong


def main() -> int:
    """Attack all commands in turn; status 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m user_dir_tests.attacks.two", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PAIRS)}; all by default")
    parser.add_argument("--times", type=int, default=3, help="pairs of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := sorted({*args.names} - {*PAIRS}):
        parser.error(f"no command {', '.join(unknown)}")
    draw, found = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        at = Path(folder, "inputs")
        inputs(at)
        for name in args.names or PAIRS:
            found += len(attack(name, Path(folder, "place"), at, server, draw, args.times))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
