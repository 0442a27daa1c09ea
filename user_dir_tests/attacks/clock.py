"""Let the clock of the day jump while commands run: ``python -m user_dir_tests.attacks.clock [NAME...]``.

After each fifth time that a process asks, the day is another one, by :file:`faults.c`; with the next five it is back.
What the commands of :mod:`.kill` do must be what they do undisturbed.  The training is killed amid this, and goes on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from ..support.mail_server import Server
from . import faults
from .kill import JOBS, SECONDS, Place

DAY = 86_400


def _kill_halfway(place: Place, words: tuple[object, ...], **variables: str) -> None:
    """Kill a training once it has saved a checkpoint."""
    process = place.start(words, **variables)
    end = time.monotonic() + SECONDS
    while process.poll() is None and not [*(place.folder / "out").glob("checkpoint_*.pt")]:
        assert time.monotonic() < end, place.said
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def attack(name: str, folder: Path, inputs: Path, server: Server, library: Path) -> list[str]:
    """Run a job with a clock that goes a day forwards and back, and one that goes backwards; what was wrong."""
    job, wrong = JOBS[name], []
    words = tuple(job.words(inputs))
    place = Place(folder, inputs, server)
    job.before(place)
    assert place.run(words) == 0, place.said
    expected = job.check(place)
    for seconds in (DAY, -DAY):
        variables = {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(seconds)}
        place = Place(folder, inputs, server)
        job.before(place)
        try:
            if name == "train":
                _kill_halfway(place, words, **variables)
            status = place.run(words, **variables)
            assert status == 0, f"status {status}: {place.said[-500:]}"
            found = job.check(place)
            assert found == expected, f"{found!r:.300} instead of {expected!r:.300}"
            assert not place.left(), f"left: {place.left()}"
        except Exception as error:
            wrong.append(f"  {seconds} s: {error!r:.900}")
    return wrong


def main() -> int:
    """Attack all jobs in turn; status 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m user_dir_tests.attacks.clock", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(JOBS)}; all by default")
    args = parser.parse_args()
    if unknown := sorted({*args.names} - {*JOBS}):
        parser.error(f"no job {', '.join(unknown)}")
    found = 0
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        inputs, library = Path(folder, "inputs"), faults.build(Path(folder))
        faults.inputs(inputs)
        for name in args.names or JOBS:
            wrong = attack(name, Path(folder, "place"), inputs, server, library)
            print(f"{name}: 2 clocks, {len(wrong)} findings", *wrong, sep="\n", flush=True)
            found += len(wrong)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
