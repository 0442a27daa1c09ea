"""Break the code a little, in one place after the other: do its tests notice?

    pip install cosmic-ray
    python -m user_dir_tests.attacks.mutate [MODULE...] --most 150

Of each module *most* mutations are drawn by lot, and the tests of that module run with each, in a copy of the
repository.  The share that was noticed should be 85% or more; what was not is shown.  Left out are mutations of
annotations, which nothing reads, and those of :mod:`.equivalent`, which change nothing that can be seen.

Each run of the tests is forked from this process, which has torch imported, and begins with the tests that noticed most
so far, then the quickest ones; a mutation takes about a second.  Tests with examples by the hundred try fewer here, the
same ones each time.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..support.commands import ROOT, environment
from ..support.preloading import preload
from ..support.warm import FAIRSEQ, TORCH
from .equivalent import is_equivalent

#: Modules, and the tests that have to notice: paths, and words that the names of tests left out hold.
TESTS = {
    "files": "test_files.py -json_on -answers_on",  # which start commands that need seconds
    "passages/text": "passages",
    "passages/passage": "passages",
    "passages/reading": "passages",
    "data/bpe": "data/test_bpe.py data/test_encoding.py",
    "data/encoding": "data/test_encoding.py data/test_blanks.py",
    "views/windows": "views/test_windows.py",
    "model/losses": "plugin/test_criterion.py",
    "plugin/criterion": "plugin/test_criterion.py",
}


_EXAMPLES = 100  # of a test that draws them, at most


class Mutation(NamedTuple):
    """A module's text with one change."""

    line: int
    change: str  #: the changed lines before and after
    code: str


def mutations(source: str, seed: int) -> Iterator[Mutation]:
    """What cosmic-ray knows to do to a source, by lot, without what it does to annotations."""
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    operators = [cosmic_ray.plugins.get_operator(name) for name in sorted(cosmic_ray.plugins.operator_names())]
    nodes = list(ast_nodes(get_ast(source)))
    places = [
        (operator, occurrence)
        for operator in operators
        if not operator.arguments()
        for occurrence in range(sum(len(list(operator().mutation_positions(node))) for node in nodes))
    ]
    random.Random(seed).shuffle(places)
    for operator, occurrence in places:
        code = mutate_code(source, operator(), occurrence)
        if meaning(code) != meaning(source):
            yield Mutation(*changed(source, code), code)


def meaning(source: str) -> str:
    """A source as a tree without annotations; of one that is none, the source."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        for name in {"annotation", "returns"} & {*node._fields}:
            setattr(node, name, None)
    return ast.dump(tree)


def changed(before: str, after: str) -> tuple[int, str]:
    """The first line that was changed, and the changed lines before and after."""
    old, new = before.splitlines(), after.splitlines()
    spans = [code[1:] for code in difflib.SequenceMatcher(None, old, new, False).get_opcodes() if code[0] != "equal"]
    texts = [
        " ".join(line.strip() for start, end in pairs for line in lines[start:end])
        for lines, pairs in ((old, [span[:2] for span in spans]), (new, [span[2:] for span in spans]))
    ]
    return spans[0][0] + 1, " → ".join(texts)


class Tests:
    """The tests of a module, run in forked processes, those first that failed most often."""

    def __init__(self, copy: Path, words: list[str]) -> None:
        self._copy = copy
        self._paths = [f"user_dir_tests/{word}" for word in words if word[0] != "-"]
        self._left_out = [word[1:] for word in words if word[0] == "-"]
        self._failures: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()

    def fail(self, seconds: float = 600.0, first: bool = False) -> bool:
        """Whether one fails, or they take longer than some seconds; the *first* time more is found out about them."""
        with tempfile.TemporaryFile("w+") as told:  # a pipe that nobody reads meanwhile would become full
            pid = os.fork()
            if pid == 0:
                try:
                    self._child(told.fileno(), first)
                finally:
                    os._exit(99)
            ended = os.pidfd_open(pid)
            in_time = bool(select.select([ended], [], [], seconds)[0])
            os.killpg(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            os.close(ended)
            told.seek(0)
            for line in told.read().splitlines():
                has_failed, taken, name = line.split(" ", 2)
                self._failures[name] += int(has_failed)
                self._seconds[name] += float(taken) if first else 0.0
        return not in_time or status != 0

    def _child(self, told: int, first: bool) -> None:
        import hypothesis
        import pytest

        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
        os.chdir(self._copy)
        os.environ.update(environment(PYTHONPATH=str(self._copy), PYTHONDONTWRITEBYTECODE="1"))
        os.environ["FAIRSEQ_CLOZE_DATA"] = "/nowhere"
        sys.dont_write_bytecode = not first
        sys.path.insert(0, str(self._copy))
        for name in [name for name in sys.modules if name.split(".")[0] in ("fairseq_cloze", "user_dir_tests")]:
            del sys.modules[name]
        # The same examples each time, and no search for the shortest one.
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("mutate", derandomize=True, database=None, phases=phases)
        hypothesis.settings.load_profile("mutate")
        with open(self._copy / "output.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        tests = self

        class Order:
            def pytest_collection_modifyitems(self, items: list[Any]) -> None:
                items[:] = [item for item in items if not any(word in item.name for word in tests._left_out)]
                items.sort(key=lambda item: (-tests._failures[item.nodeid], tests._seconds[item.nodeid]))
                for item in items:
                    given = getattr(item.obj, "_hypothesis_internal_use_settings", None)
                    if given and given.max_examples > _EXAMPLES:
                        fewer = hypothesis.settings(given, max_examples=_EXAMPLES)
                        item.obj._hypothesis_internal_use_settings = fewer

            def pytest_runtest_logreport(self, report: Any) -> None:
                if report.failed or first:
                    os.write(told, f"{int(report.failed)} {report.duration} {report.nodeid}\n".encode())

        words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", "--tb=short"]
        os._exit(pytest.main([*words, f"--basetemp={self._copy / 'tmp'}", *self._paths], [Order()]))


def mutate(module: str, copy: Path, most: int, seed: int) -> bool:
    """Try mutations of a module, print what came of them; whether enough were noticed."""
    path = copy / "fairseq_cloze" / f"{module}.py"
    source = path.read_text()
    equivalent, tried = 0, []
    for one in mutations(source, seed):
        if is_equivalent(module, one.change):
            equivalent += 1
        elif len(tried) < most:
            tried.append(one)
        else:
            break
    tests = Tests(copy, TESTS[module].split())
    before = time.monotonic()
    assert not tests.fail(first=True), f"the tests fail:\n{(copy / 'output.txt').read_text()}"
    limit = 20 + 5 * (time.monotonic() - before)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()
    missed = []
    for one in sorted(tried):
        path.write_text(one.code)
        if not tests.fail(limit):
            missed.append(one)
            print(f"  {module}.py:{one.line}: {one.change}", flush=True)
    path.write_text(source)
    noticed = len(tried) - len(missed)
    share = f"{noticed} of {len(tried)} noticed ({noticed / len(tried):.0%})"
    print(f"{module}: {share}, {equivalent} more are equivalent", flush=True)
    return noticed >= 0.85 * len(tried)


def main() -> int:
    """Status 1 where less than 85% of a module's mutations were noticed."""
    parser = argparse.ArgumentParser(prog="python -m user_dir_tests.attacks.mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}; all by default")
    parser.add_argument("--most", type=int, default=150, help="mutations of a module (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := sorted({*args.modules} - {*TESTS}):
        parser.error(f"no module {', '.join(unknown)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    modules = args.modules or [*TESTS]
    needs_fairseq = any("plugin" in TESTS[module] for module in modules)
    preload([*(FAIRSEQ if needs_fairseq else TORCH), "pytest", "hypothesis"])
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        left_out = shutil.ignore_patterns(".venv*", ".git", "work", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
        good = [mutate(module, copy, args.most, args.seed) for module in modules]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
