"""Writes docs/training-options.md, the table of fairseq-train's options: python scripts/options_page.py."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

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
    (ROOT / "docs" / "training-options.md").write_text(page(), encoding="utf-8")
