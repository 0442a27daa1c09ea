"""What the measurements say, as text for ``docs/benchmarks.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench_measure import Rates

BEGIN = "<!-- figures: scripts/bench writes what stands between here and the end of figures -->"
END = "<!-- end of figures -->"

DTYPES = ("float32", "bfloat16")


def write_block(page: Path, text: str) -> None:
    """Replace what stands between the markers of a page.

    Raises:
        SystemExit: it has no markers
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: expected the lines '{BEGIN}' and '{END}', which the figures go between")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def render(result: dict[str, Any]) -> str:
    """The measured part of the page."""
    machine, shape = result["machine"], result["architecture"]
    device = f"{machine['gpu']}, " if "gpu" in machine else ""
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    lines = [
        f"{result['date']}, {device}{machine['processor']} ({machine['vector_instructions']}), {threads}, torch "
        f"{machine['torch']}, fairseq {machine['fairseq']}, transformers {machine['transformers']}.",
        f"Weights `{result['weights']}`: {shape['encoder_layers']} layers of {shape['encoder_embed_dim']}, "
        f"feed-forward {shape['encoder_ffn_embed_dim']:,}, {shape['max_positions']} positions.",
        f"Medians of {result['rounds']} rounds, in brackets the slowest and the fastest.",
        "",
        "```text",
        result["command"],
        "```",
    ]
    goals = _goals(result)
    if goals:
        lines += ["", "| | measured | goal |", "|---|---|---|"]
        lines += [f"| {what} | {_spread(value, digits)}{unit} | {aim} |" for what, value, digits, unit, aim in goals]
    for name, section in (("scoring", _scoring), ("training", _training), ("prepare", _preparation)):
        if name in result:
            lines += ["", *section(result[name])]
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The goals for a terminal."""
    return "\n".join(
        f"{what.replace('`', ''):70}{_spread(value, digits)}{unit}, goal: {aim}"
        for what, value, digits, unit, aim in _goals(result)
    )


Goal = tuple[str, Rates, int, str, str]


def _goals(result: dict[str, Any]) -> list[Goal]:
    goals: list[Goal] = []
    for name, unit, over, share in (
        ("scoring", "blanks/s", "at least 1.3", "at least 65"),
        ("training", "tokens/s", "at least 1.5", "none"),
    ):
        if name not in result:
            continue
        part = result[name]
        rates: dict[str, Rates] = part["rates"]
        if name == "scoring":
            ranking = rates["ours float32"].over(rates["sentence_ranking float32"])
            goals.append(("scoring, blanks/s: over fairseq's `sentence_ranking`", ranking, 1, " times", "at least 40"))
        for dtype in DTYPES:
            ratio = rates[f"ours {dtype}"].over(rates[f"transformers {dtype}"])
            goals.append((f"{name}, {unit}, {dtype}: over transformers", ratio, 2, " times", over))
        for dtype in DTYPES:
            utilisation = part["utilisation"][dtype].times(100)
            goals.append((f"{name}, {dtype}: of the GEMM rate", utilisation, 1, "%", share))
        goals.append((f"{name}: padding in a batch, not computed", Rates([part["padding"]]), 2, "%", "at most 3"))
    if "prepare" in result:
        rates = result["prepare"]["rates"]
        ratio = rates["ours"].over(rates["fairseq"])
        goals.append(("preparation, passages/s per core: over fairseq's commands", ratio, 1, " times", "at least 20"))
    return goals


def _scoring(part: dict[str, Any]) -> list[str]:
    rates, filled = part["rates"], part["filled"]
    lines = [
        "### Scoring",
        "",
        f"{part['passages']} passages of all lengths: {part['blanks']:,} blanks, {part['tokens']:,} tokens in "
        f"{part['rows']} rows, {part['padding']:.2f}% padding added.",
        "",
        "| blanks/s | float32 | ours is faster by | bfloat16 | ours is faster by |",
        "|---|---|---|---|---|",
        _row("ours", rates, "ours", "ours", 1),
        _row("transformers, one forward per passage", rates, "transformers", "ours", 1),
        _row("fairseq `sentence_ranking`", rates, "sentence_ranking", "ours", 2),
        _row("transformers `RobertaForMultipleChoice`", rates, "multiple choice", "ours", 2),
        "",
    ]
    sizes = [part["transformers"][dtype]["batch_size"] for dtype in DTYPES]
    kind = {"autocast": "autocast", "weights": "bfloat16 weights"}[part["transformers"]["bfloat16"]["bfloat16"]]
    agreement = [f"{100 * part['agreement'][dtype]:.2f}%" for dtype in DTYPES]
    cut = f" {filled['cut']} of {filled['rows']} texts were cut at the model's positions." if filled["cut"] else ""
    lines += [
        f"transformers' fastest batches hold {sizes[0]} passages in float32 and {sizes[1]} in bfloat16 ({kind}); "
        f"{agreement[0]} and {agreement[1]} of its answers are ours without contrast.",
        f"The last two score {filled['blanks']} of {filled['of']:,} blanks, spread over all lengths, with "
        f"{filled['batch_size']['sentence_ranking']} and {filled['batch_size']['multiple choice']} blanks a batch, in "
        f"float32.{cut}",
    ]
    return lines + _limit(part, "blanks")


def _training(part: dict[str, Any]) -> list[str]:
    return [
        "### Training",
        "",
        f"{part['updates']} updates a round on {part['passages']} passages: {part['tokens']:,} tokens that are not "
        f"padding, {part['blanks']:,} blanks, {part['padding']:.2f}% padding added.",
        "",
        "| tokens/s | float32 | ours is faster by | bfloat16 | ours is faster by |",
        "|---|---|---|---|---|",
        _row("ours", part["rates"], "ours", "ours", 0),
        _row("transformers", part["rates"], "transformers", "ours", 0),
        *_limit(part, "tokens"),
    ]


def _limit(part: dict[str, Any], unit: str) -> list[str]:
    lines = ["", "| the limit | float32 | bfloat16 |", "|---|---|---|"]
    rows = {
        "GEMM, GFLOP/s": [part["rates"][f"gemm {dtype}"].times(1e-9) for dtype in DTYPES],
        "model, GFLOP/s": [part["flops"][dtype].times(1e-9) for dtype in DTYPES],
        "model over GEMM, %": [part["utilisation"][dtype].times(100) for dtype in DTYPES],
    }
    lines += [f"| {what} | {_spread(a, 1)} | {_spread(b, 1)} |" for what, (a, b) in rows.items()]
    return [*lines, "", f"{part['flops_per_token'] / 1e6:,.1f} MFLOP for a token by the formula."]


def _preparation(part: dict[str, Any]) -> list[str]:
    rows = [("passages/s, by the commands", part["rates"], 1), ("tokens/s, encoding alone", part["encoding"], 0)]
    return [
        "### Preparation",
        "",
        f"{part['passages']:,} passages, which are {part['texts']:,} texts for `sentence_ranking` and "
        f"{part['tokens']:,} tokens for us; one core.",
        "",
        "| | ours | fairseq | ours is faster by |",
        "|---|---|---|---|",
        *(
            f"| {what} | {_spread(r['ours'], digits)} | {_spread(r['fairseq'], digits)} "
            f"| {_spread(r['ours'].over(r['fairseq']), 2)} |"
            for what, r, digits in rows
        ),
    ]


def _row(what: str, rates: dict[str, Rates], who: str, ours: str, digits: int) -> str:
    cells: list[str] = []
    for dtype in DTYPES:
        rate: Rates | None = rates.get(f"{who} {dtype}")
        cells.append(_spread(rate, digits) if rate else "")
        cells.append(_spread(rates[f"{ours} {dtype}"].over(rate), 2) if rate and who != ours else "")
    return f"| {what} | {' | '.join(cells)} |"


def _spread(rates: Rates, digits: int) -> str:
    text = f"{rates.median:,.{digits}f}"
    if len(rates.rounds) > 1:
        text += f" ({min(rates.rounds):,.{digits}f} to {max(rates.rounds):,.{digits}f})"
    return text
