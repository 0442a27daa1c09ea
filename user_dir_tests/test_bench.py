"""``scripts/bench``, with as little work as there can be: every contestant runs, times mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .support.commands import BIN, PASSAGES, ROOT, run

PAGE = ROOT / "docs" / "benchmarks.md"


def write_pairs(folder: Path) -> Path:
    """Eight passages with two candidates a blank, as fairseq's commands run once for each."""
    folder.mkdir()
    for file in sorted((PASSAGES / "train").glob("*.json"))[:8]:
        record = json.loads(file.read_text())
        gold = ["ABCD".index(answer) for answer in record["answers"]]
        record["options"] = [[row[right], row[right - 1]] for row, right in zip(record["options"], gold)]
        (folder / file.name).write_text(json.dumps({**record, "answers": ["A"] * len(gold)}))
    return folder


@pytest.mark.slow
def test_bench(tmp_path: Path, pretrained: Path) -> None:
    page, out = tmp_path / "page.md", tmp_path / "bench.json"
    text = PAGE.read_text()
    before, begin, rest = text.partition("<!-- figures")
    _, end, after = rest.partition("<!-- end of figures -->")
    assert begin and end
    page.write_text(text)
    options = ("--weights", pretrained, "--passages", write_pairs(tmp_path / "pairs"), "--limit", "2", "--rounds", "1")
    options += ("--threads", "1", "--json", out, "--write", page)
    ran = run("bash", ROOT / "scripts" / "bench", *options, env={"VENV": str(BIN.parent)})

    result = json.loads(out.read_text())
    assert result["command"].startswith("scripts/bench --weights")
    assert {"processor", "cores", "threads", "torch"} <= set(result["machine"]) and result["machine"]["threads"] == 1
    scoring, training, prepared = result["scoring"], result["training"], result["prepare"]
    assert set(scoring["rates"]) == {
        *(f"{who} {dtype}" for who in ("ours", "transformers", "gemm") for dtype in ("float32", "bfloat16")),
        *("sentence_ranking float32", "multiple choice float32"),
    }
    assert set(training["rates"]) == {
        name for name in scoring["rates"] if "ranking" not in name and "choice" not in name
    }
    for rates in (scoring["rates"], training["rates"], prepared["rates"], prepared["encoding"]):
        for rate in rates.values():
            assert len(rate["rounds"]) == 1 and 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert scoring["passages"] == 2 and scoring["agreement"]["float32"] >= 0.995
    assert scoring["agreement"]["bfloat16"] > 0.8
    assert scoring["filled"]["agreement"] >= 0.9 and scoring["filled"]["blanks"] == 8
    for part in (scoring, training):
        assert 0 <= part["padding"] < 50 and part["tokens"] > 0 and part["flops_per_token"] > 0
        rate = part["rates"]["ours float32"]["median"] / (part["blanks"] if part is scoring else part["tokens"])
        assert abs(part["flops"]["float32"]["median"] / (rate * part["flops_per_token"] * part["tokens"]) - 1) < 1e-6
        share = part["flops"]["float32"]["median"] / part["rates"]["gemm float32"]["median"]
        assert abs(part["utilisation"]["float32"]["median"] / share - 1) < 1e-6
    assert prepared["passages"] == 8 and prepared["texts"] % 2 == 0

    written = page.read_text()
    assert written.startswith(before) and written.endswith(after)
    block = written[len(before) : len(written) - len(after)]
    assert result["command"] in block and "### Scoring" in block and "### Preparation" in block
    assert block.count("```") == 2 and "<!--" not in block.split("-->", 1)[1].rsplit("<!--", 1)[0]
    assert block.split("-->", 1)[1].rsplit("<!--", 1)[0].strip() in ran.text


def test_a_page_without_a_place_for_figures(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Page\n")
    code = "from pathlib import Path; from bench_page import write_block; write_block(Path('page.md'), 'figures')"
    ran = run("python", "-c", code, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"}, code=1)
    assert "page.md: expected the lines '<!-- figures" in ran.text
    assert (tmp_path / "page.md").read_text() == "# Page\n"
