"""What the measurements say, as text for ``docs/benchmarks.md``; also where the run was stopped halfway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_measure import BUSY, Rates

from fairseq_cloze.files import replacing

BEGIN = "<!-- figures: scripts/bench writes what stands between here and the end of figures -->"
END = "<!-- end of figures -->"

DTYPES = ("float32", "bfloat16")

#: Least ratio of us to a peer, by part, peer and type of ours: what ours is compared with, and the goal.
OVER = {
    ("scoring", "sentence_ranking", "float32"): ("float32", "at least 75"),
    ("scoring", "transformers", "float32"): ("float32", "at least 2.6"),
    ("scoring", "transformers", "bfloat16"): ("bfloat16", "at least 2.4"),
    ("scoring", "transformers", "int8"): ("bfloat16", "at least 3.5"),
    ("training", "transformers", "float32"): ("float32", "at least 2.4"),
    ("training", "transformers", "bfloat16"): ("bfloat16", "at least 2.4"),
    ("prepare", "sentence_ranking", "commands"): ("commands", "at least 20"),
}
SHARES = {"scoring": "at least 65", "training": "none"}
MOST_PADDING = "at most 3"
NAMES = {
    "ours": "ours",
    "sentence_ranking": "fairseq's `sentence_ranking`",
    "multiple-choice": "transformers' `RobertaForMultipleChoice`",
    "cross-encoder": "sentence-transformers' `CrossEncoder`",
    "transformers": "transformers",
}
PARTS = {
    "scoring": ("scoring, blanks/s", 1),
    "training": ("training, tokens/s", 0),
    "prepare": ("preparation, passages/s per core", 1),
}


def write_block(page: Path, text: str) -> None:
    """Replace what stands between the markers of a page.

    Raises:
        SystemExit: it has no markers
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: expected the lines '{BEGIN}' and '{END}', which the figures go between")
    with replacing(page) as new:
        new.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def render(result: dict[str, Any]) -> str:
    """The measured part of the page."""
    machine, shape = result["machine"], result["architecture"]
    device = f"{machine['gpu']}, " if "gpu" in machine else ""
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    lines = []
    if not result["complete"]:
        lines = [f"**Incomplete**: stopped, or still running, after {result['seconds'] / 60:.1f} minutes.", ""]
    lines += [
        f"{result['date']}, {device}{machine['processor']} ({machine['vector_instructions']}), {threads}, torch "
        f"{machine['torch']}, fairseq {machine['fairseq']}, transformers {machine['transformers']}.",
        f"Weights `{result['weights']}`: {shape['encoder_layers']} layers of {shape['encoder_embed_dim']}, "
        f"feed-forward {shape['encoder_ffn_embed_dim']:,}, {shape['max_positions']} positions.",
        f"Medians of rounds ({_rounds(result)}), in brackets the slowest and the fastest. "
        f"{result['seconds'] / 60:.1f} minutes in all.",
    ]
    if any(rates.disturbed for part in PARTS for rates in result.get(part, {}).get("rates", {}).values()):
        lines.append(f"\\* In a round of this, others took more than {100 * BUSY:.0f}% of the machine's CPUs.")
    lines += [f"Without {name}: {reason}" for name, reason in result["skipped"].items()]
    lines += ["", "```text", result["command"], "```"]
    goals = list(_goals(result))
    if goals:
        lines += ["", "| | measured | goal |", "|---|---|---|"]
        lines += [f"| {what} | {_spread(value, digits)}{unit} | {aim} |" for what, value, digits, unit, aim in goals]
    for name, section in (("scoring", _scoring), ("training", _training), ("prepare", _preparation)):
        if result.get(name, {}).get("rates"):
            lines += ["", *section(result[name])]
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The goals for a terminal."""
    return "\n".join(
        f"{what.replace('`', ''):80}{_spread(value, digits)}{unit}, goal: {aim}"
        for what, value, digits, unit, aim in _goals(result)
    )


Goal = tuple[str, Rates, int, str, str]


def _goals(result: dict[str, Any]) -> Iterator[Goal]:
    for name, (title, _) in PARTS.items():
        part = result.get(name, {})
        rates: dict[str, Rates] = part.get("rates", {})
        for other in _whos(rates):
            for column in _columns(rates, "ours"):
                same, aim = OVER.get((name, _peer(other), column), (column, "none"))
                theirs = rates.get(f"{other} {same}")
                if theirs is None or column == "encoding":
                    continue
                kind = f", {column}" if column != "commands" else ""
                over = "" if same == column else f" in {same}"
                ratio = rates[f"ours {column}"].over(theirs)
                yield f"{title}{kind}: over {_called(other)}{over}", ratio, 2, " times", aim
        for dtype, share in part.get("utilisation", {}).items():
            yield f"{name}, {dtype}: of the GEMM rate", share.times(100), 1, "%", SHARES[name]
        if "padding" in part:
            yield f"{name}: padding in a batch, not computed", Rates([part["padding"]]), 2, "%", MOST_PADDING


def _scoring(part: dict[str, Any]) -> list[str]:
    rates = part["rates"]
    padding = f", {part['padding']:.2f}% padding added" if "padding" in part else ""
    lines = [
        "### Scoring",
        "",
        f"{part['passages']} passages of all lengths: {part['blanks']:,} blanks, {part['tokens']:,} tokens in "
        f"{part['rows']} rows{padding}.",
        "",
        *_table("blanks/s", part, DTYPES, 2),
    ]
    if "ours int8" in rates:
        lines += ["", f"In int8 ours makes {_spread(rates['ours int8'], 1)} blanks/s."]
    lines.append("")
    for facts in part["peers"].values():
        if "ways" in facts:
            (_, one), (kind, two) = facts["ways"]["float32"], facts["ways"]["bfloat16"]
            kind = "autocast" if kind == "autocast" else "bfloat16 weights"
            batches = f"{one} passages in float32 and {two} in bfloat16 ({kind})"
            lines.append(f"The fastest batches of {facts['version']} hold {batches}.")
    for name, share in part.get("agreement", {}).items():
        lines.append(f"{100 * share:.2f}% of the answers of {name} are ours without contrast.")
    sizes = [
        f"{who} {facts['blanks']}, {facts['batch_size']} in a batch"
        for who, facts in part["peers"].items()
        if "batch_size" in facts
    ]
    if sizes:
        cut = part["peers"].get("sentence_ranking", {})
        lines.append(
            f"Peers that fill in every candidate score some of {part['filled']['of']:,} blanks, spread over all "
            f"lengths: {'; '.join(sizes)}."
            + (f" {cut['cut']} of {cut['rows']} texts were cut at the model's positions." if cut.get("cut") else "")
        )
    return lines + _limit(part)


def _training(part: dict[str, Any]) -> list[str]:
    updates = "1 update" if part["updates"] == 1 else f"{part['updates']} updates"
    return [
        "### Training",
        "",
        f"{updates} a round on {part['passages']} passages: {part['tokens']:,} tokens that are not padding, "
        f"{part['blanks']:,} blanks, {part['padding']:.2f}% padding added.",
        "",
        *_table("tokens/s", part, DTYPES, 0),
        *_limit(part),
    ]


def _preparation(part: dict[str, Any]) -> list[str]:
    return [
        "### Preparation",
        "",
        f"{part['passages']:,} passages, which are {part['texts']:,} texts for `sentence_ranking` and "
        f"{part['tokens']:,} tokens for us; one core. By the commands in passages/s, encoding alone in tokens/s.",
        "",
        *_table("", part, ("commands", "encoding"), 1),
    ]


def _table(unit: str, part: dict[str, Any], columns: tuple[str, ...], digits: int) -> list[str]:
    rates: dict[str, Rates] = part["rates"]
    lines = [
        f"| {unit} |" + "".join(f" {column} | ours is faster by |" for column in columns),
        "|---|" + "---|---|" * len(columns),
    ]
    for who in ("ours", *_whos(rates)):
        cells = []
        for column in columns:
            rate, ours = rates.get(f"{who} {column}"), rates.get(f"ours {column}")
            cells.append(_spread(rate, digits) if rate else "")
            cells.append(_spread(ours.over(rate), 2) if rate and ours and who != "ours" else "")
        lines.append(f"| {_called(who)} | {' | '.join(cells)} |")
    return lines


def _limit(part: dict[str, Any]) -> list[str]:
    if set(part["utilisation"]) < set(DTYPES):
        return []
    rows = {
        "GEMM, GFLOP/s": [part["rates"][f"gemm {dtype}"].times(1e-9) for dtype in DTYPES],
        "model, GFLOP/s": [part["flops"][dtype].times(1e-9) for dtype in DTYPES],
        "model over GEMM, %": [part["utilisation"][dtype].times(100) for dtype in DTYPES],
    }
    return [
        *("", "| the limit | float32 | bfloat16 |", "|---|---|---|"),
        *(f"| {what} | {_spread(a, 1)} | {_spread(b, 1)} |" for what, (a, b) in rows.items()),
        *("", f"{part['flops_per_token'] / 1e6:,.1f} MFLOP for a token by the formula."),
    ]


def _rounds(result: dict[str, Any]) -> str:
    return ", ".join(f"{result[part].get('rounds', 0)} of {part}" for part in PARTS if part in result)


def _whos(rates: dict[str, Rates]) -> list[str]:
    """Everybody but us and the machine, in the order of their first figures."""
    return [who for who in dict.fromkeys(name.rsplit(" ", 1)[0] for name in rates) if who not in ("ours", "gemm")]


def _columns(rates: dict[str, Rates], who: str) -> list[str]:
    return [name.rsplit(" ", 1)[1] for name in rates if name.rsplit(" ", 1)[0] == who]


def _peer(who: str) -> str:
    return who.split("==")[0]


def _called(who: str) -> str:
    name = NAMES.get(_peer(who), who)
    return f"{name} {who.split('==')[1]}" if "==" in who and _peer(who) in NAMES else name


def _spread(rates: Rates, digits: int) -> str:
    text = f"{rates.median:,.{digits}f}"
    if len(rates.rounds) > 1:
        text += f" ({min(rates.rounds):,.{digits}f} to {max(rates.rounds):,.{digits}f})"
    return text + ("\\*" if rates.disturbed else "")
