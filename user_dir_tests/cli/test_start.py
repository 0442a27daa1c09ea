"""What a command loads before it does anything: its help is there at once."""

from __future__ import annotations

import sys

from fairseq_cloze.cli import COMMANDS
from fairseq_cloze.plugin.fitting import SHARE

from ..support.commands import run

#: Prints the help of each command, then what was loaded for it: names of packages, then modules of ours.
HELP = """
import sys
before = set(sys.modules)
from fairseq_cloze import cli
for words in [["--help"], *([name, "--help"] for name in cli.COMMANDS)]:
    cli.main(words, standalone_mode=False)
loaded = set(sys.modules) - before
roots = {name.split(".")[0] for name in loaded}
print("packages", *sorted(name for name in roots if name not in sys.stdlib_module_names))
print("modules", *sorted(name for name in loaded if name.startswith("fairseq_cloze.") and ".cli" not in name))
print("slow", *sorted(roots & {"asyncio", "email", "multiprocessing", "socket", "ssl", "unittest"}))
"""


def test_help_loads_no_more_than_it_names() -> None:
    """torch takes two seconds, numpy a tenth, and the patterns that read sheets as much."""
    text = run(sys.executable, "-c", HELP).text
    *said, packages, modules, slow = text.splitlines()
    usage = [line.split()[1:4] for line in said if line.startswith("Usage: ")]
    assert [words[1] for words in usage[1:]] == COMMANDS
    assert packages.split()[1:] == ["click", "fairseq_cloze"]
    assert [name.partition(".")[2] for name in modules.split()[1:]] == [
        *("errors", "passages", "passages.choices", "ranking", "ranking.resources"),
        *("training", "training.known_options", "user_dir", "version", "views", "views.settings"),
    ]
    assert slow.split()[1:] == []
    assert text.count("Share of the memory that may be filled.") == text.count(f"[default: {SHARE}]") == 1
