"""Writes what is said of fairseq-train's options: python scripts/options_page.py.

That is docs/training-options.md, the table of all that were tried; and docs/options.md, those of this project, with
fairseq_cloze/training/options.json, from which ``fairseq-cloze train --help`` shows them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fairseq_cloze import register  # noqa: E402
from fairseq_cloze.training.known_options import FILE, KnownOption, known_options  # noqa: E402
from user_dir_tests.support.option_table import TABLE  # noqa: E402

HEAD = """\
# Options of fairseq-train

Every option that `fairseq-train` takes with `--task cloze_ranking --arch cloze_roberta`, and every optimizer and
schedule. Each was tried in a short training on a CPU, with the words of the first column. A test holds that this page
has every option of the fairseq that is installed, so a new one is tried before it is used.

- **works**: the training does what the option asks for, and that was seen.
- **refused**: one line says why and what to do, before the first update.
- **no effect**: the figures are the same without it, and a warning in the log says so.

Options that contradict each other are refused as well, such as `--best-checkpoint-metric accuracy` without
`--maximize-best-checkpoint-metric`, which would keep the worst checkpoint. So are numbers that cannot be right, such as
`--log-interval 0`.

What else ends a command of fairseq before the first update is said in one line, too. `FAIRSEQ_CLOZE_TRACEBACK=1` shows
where it came from.

This page is written by `scripts/options_page.py`.
"""

OWN = """\
# Options of this project

What task, criterion, model and optimizer of this project add to `fairseq-train`. `fairseq-cloze train --help` shows the
same; fairseq's own `--help` ends before it knows the plugin. Everything else that `fairseq-train` takes is in
[training-options.md](training-options.md), with what it does here. What the options are for is in
[training.md](training.md).

This page is written by `scripts/options_page.py`.
"""


def declared() -> dict[str, list[KnownOption]]:
    """Options by group, as fairseq's parser has them."""
    register()
    from fairseq.dataclass.utils import gen_parser_from_dataclass

    from fairseq_cloze.plugin.criterion import ClozeRankingCriterionConfig
    from fairseq_cloze.plugin.model import ClozeRobertaConfig
    from fairseq_cloze.plugin.optimizer import FusedAdamWConfig
    from fairseq_cloze.plugin.task import ClozeRankingConfig

    groups = {
        "Task (--task cloze_ranking)": ClozeRankingConfig,
        "Loss (--criterion cloze_ranking)": ClozeRankingCriterionConfig,
        "Model (--arch cloze_roberta, --arch cloze_lm)": ClozeRobertaConfig,
        "Optimizer (--optimizer fused_adamw)": FusedAdamWConfig,
    }
    found = {}
    for title, config in groups.items():
        parser = argparse.ArgumentParser(add_help=False)
        gen_parser_from_dataclass(parser, config())
        found[title] = [_known(action) for action in parser._actions if action.option_strings]
    return found


def _known(action: argparse.Action) -> KnownOption:
    is_flag = action.nargs == 0
    values = "" if is_flag else "|".join(map(str, action.choices or ["VALUE"]))
    default = "" if is_flag or action.default is None else str(action.default)
    return KnownOption(action.option_strings[-1], values, default, action.help or "")


def written() -> str:
    """What is declared, as the file has it."""
    groups = {title: [asdict(option) for option in options] for title, options in declared().items()}
    return json.dumps(groups, indent=1) + "\n"


def own_page() -> str:
    """The page of this project's options, from the file."""
    parts = [OWN]
    for title, options in known_options().items():
        kind, names = title.rstrip(")").split(" (")
        parts.append(f"\n## {kind}\n\n`{names.replace(', ', '`, `')}`\n\n| option | default | what |\n|---|---|---|\n")
        for option in options:
            words = f"{option.name} {option.values}".strip().replace("|", "\\|")
            parts.append(f"| `{words}` | {option.default} | {option.text.replace('|', chr(92) + '|')} |\n")
    return "".join(parts)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, rows in TABLE.items():
        parts.append(f"\n## {title}\n\n| tried | verdict | what to know |\n|---|---|---|\n")
        for row in rows:
            words = (
                row.tried.replace("|", "\\|")
                .replace("TMP/", "")
                .replace("TMP", "FOLDER")
                .replace("WEIGHTS", "MODEL.PT")
            )
            parts.append(f"| `{words}` | {row.verdict} | {row.note} |\n")
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
    (ROOT / "docs" / "training-options.md").write_text(page(), encoding="utf-8")
    (ROOT / "docs" / "options.md").write_text(own_page(), encoding="utf-8")
