"""Fuzz the parsers: ``python -m user_dir_tests.attacks [NAME...] --inputs 100000``."""

import argparse
import importlib.util
import sys
from pathlib import Path

from . import fuzzing


def main() -> int:
    """Attack the targets one after the other, a line for each; status 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m user_dir_tests.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(fuzzing.names())}; all by default")
    parser.add_argument("--inputs", type=int, default=10_000, help="for each target (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="at most, for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other inputs")
    parser.add_argument("--out", type=Path, default=Path("work/attacks"), help="for findings (default: %(default)s)")
    parser.add_argument("--plain", action="store_true", help="without atheris, where it is installed")
    args = parser.parse_args()
    if unknown := sorted({*args.names} - {*fuzzing.names()}):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(fuzzing.names())}")
    guided = not args.plain and importlib.util.find_spec("atheris") is not None
    print(f"inputs by {'atheris' if guided else 'our own mutations'}, seed {args.seed}", flush=True)
    found = 0
    for name in args.names or fuzzing.names():
        tally, took = fuzzing.run(name, args.out, args.inputs, args.seconds, args.seed, guided)
        kinds = "".join(f"\n    {count} × {what}" for what, count in tally.findings.items())
        rate = tally.inputs / took
        print(
            f"{name}: {tally.inputs:,} inputs, {len(tally.findings)} kinds of findings, {rate:,.0f} inputs/s{kinds}",
            flush=True,
        )
        found += len(tally.findings)
    if found:
        print(f"the inputs and their tracebacks are in {args.out}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
