"""A process that attacks one target: ``python -m user_dir_tests.attacks.child``, started by :mod:`.fuzzing`."""

import sys
from pathlib import Path

from .fuzzing import child

if __name__ == "__main__":
    name, folder, inputs, seconds, seed, guided = sys.argv[1:]
    child(name, Path(folder), int(inputs), float(seconds), int(seed), bool(int(guided)))
