"""Break the code a little, in one place after the other: do its tests notice?

    pip install cosmic-ray
    python -m user_dir_tests.attacks.mutate [MODULE...] --most 100

Of each module *most* mutations are drawn by lot, and the tests of that module run with each, in a copy of the
repository.  The share that was noticed should be 85% or more; what was not is shown.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from ..support.commands import ROOT, environment

#: Modules, and the tests that have to notice.
TESTS = {
    "files": "test_files.py",
    "passages/text": "passages",
    "passages/passage": "passages",
    "passages/reading": "passages",
    "data/bpe": "data/test_bpe.py data/test_encoding.py",
    "data/encoding": "data/test_encoding.py",
    "views/windows": "views/test_windows.py",
    "views/batches": "views/test_batches.py",
    "model/losses": "model/test_scores.py plugin/test_criterion.py",
    "model/scores": "model/test_scores.py",
    "plugin/criterion": "plugin/test_criterion.py",
}

CONFIG = """
[cosmic-ray]
module-path = "fairseq_cloze/{module}.py"
timeout = 120.0
excluded-modules = []
test-command = "{python} -m pytest -q -x -p no:cacheprovider -m 'not slow' {tests}"
[cosmic-ray.distributor]
name = "local"
"""


def mutate(module: str, copy: Path, most: int, seed: int) -> tuple[int, int, list[str]]:
    """Mutations noticed, mutations tried, and those that were not noticed."""
    config, session = copy / "mutations.toml", copy / "mutations.sqlite"
    session.unlink(missing_ok=True)
    tests = " ".join(f"user_dir_tests/{each}" for each in TESTS[module].split())
    config.write_text(CONFIG.format(module=module, tests=tests, python=sys.executable))

    def ray(*words: object) -> str:
        command = [sys.executable, "-m", "cosmic_ray.cli", *map(str, words)]
        env = environment(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
        return subprocess.run(command, cwd=copy, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout

    ray("init", config, session)
    with sqlite3.connect(session) as database:
        jobs = sorted(job for (job,) in database.execute("select job_id from work_items"))
        left_out = random.Random(seed).sample(jobs, max(0, len(jobs) - most))
        for table in ("mutation_specs", "work_items"):
            database.executemany(f"delete from {table} where job_id = ?", [(job,) for job in left_out])
    ray("baseline", config)
    ray("exec", config, session)
    noticed, missed = 0, []
    for line in ray("dump", session).splitlines():
        item, result = json.loads(line)
        [mutation] = item["mutations"]
        if result["test_outcome"] == "survived":
            missed.append(f"{module}.py:{mutation['start_pos'][0]} {mutation['operator_name'].removeprefix('core/')}")
        else:
            noticed += 1
    return noticed, noticed + len(missed), missed


def main() -> int:
    """Status 1 where less than 85% of a module's mutations were noticed."""
    parser = argparse.ArgumentParser(prog="python -m user_dir_tests.attacks.mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}; all by default")
    parser.add_argument("--most", type=int, default=100, help="mutations of a module (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := sorted({*args.modules} - {*TESTS}):
        parser.error(f"no module {', '.join(unknown)}")
    poor = False
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        left_out = shutil.ignore_patterns(".venv*", ".git", "work", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
        for module in args.modules or TESTS:
            noticed, tried, missed = mutate(module, copy, args.most, args.seed)
            print(f"{module}: {noticed} of {tried} noticed", *(f"  {each}" for each in missed), sep="\n", flush=True)
            poor = poor or noticed < 0.85 * tried
    return 1 if poor else 0


if __name__ == "__main__":
    sys.exit(main())
