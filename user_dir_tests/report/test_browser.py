"""The report in headless Chromium, opened from disk as a reader would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.passages.passage import LETTERS
from fairseq_cloze.ranking.answers import PassagePrediction, read_predictions, write_predictions
from fairseq_cloze.ranking.origin import read_origin
from fairseq_cloze.report.page import Report, report, write_report

from ..support.chromium import chromium
from ..support.reported import CHANCE, ORIGIN, SOURCE, answer, hostile, log_text, training_events, write_events
from ..support.texts import write_passage

browser = pytest.fixture(chromium, scope="module")


class Opened:
    """A page with all that the console said and all that it asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **context})
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def listed(self) -> list[str]:
        return self.page.locator(".list .name").all_text_contents()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def label(self, selector: str) -> str:
        return self.page.locator(selector).get_attribute("aria-label")


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens reports; in the end no page may have complained or asked for anything but its file."""
    pages: list[Opened] = []

    def open_page(path: Path, **context: Any) -> Opened:
        pages.append(Opened(browser, path, **context))
        return pages[-1]

    yield open_page
    for one in pages:
        assert one.said == [] and all(url.startswith("file://") for url in one.asked) and len(one.asked) == 1
        one.page.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, data_bin: Path) -> tuple[Path, Report]:
    """A report of two runs, one of them at chance, with logs and predictions for the same passages."""
    folder = tmp_path_factory.mktemp("two")
    for name, seed, best, rest in (("good", 1, 50.0, []), ("bad", 2, 27.0, [CHANCE])):
        (folder / name).mkdir()
        write_events(folder / name / "metrics.jsonl", training_events(best=best) + rest)
        (folder / name / "run.json").write_text(json.dumps({"data": str(data_bin)}))
        write_predictions(folder / name / "predictions_valid.json", answer(DataBin(data_bin), seed=seed))
    made = report([folder / "good", folder / "bad"])
    write_report(made, folder / "page.html")
    return folder / "page.html", made


def passing(made: Report, file: int = 0, below: float = 0.5) -> dict[str, list[tuple[str, int]]]:
    """Blanks by filter, worked out from the data: passage id and number."""
    found = made.data["sets"][0]
    mine = found["files"][file]
    out: dict[str, list[tuple[str, int]]] = {"all": [], "wrong": [], "uncertain": [], "differ": []}
    for number, entry in enumerate(found["passages"]):
        for blank, gold in enumerate(entry[1]):
            given = mine["answers"][number][blank]
            here = (entry[0], blank + 1)
            out["all"].append(here)
            if given != gold:
                out["wrong"].append(here)
            if mine["probabilities"][number][blank][LETTERS.index(given)] < 1000 * below:
                out["uncertain"].append(here)
            if len({one["answers"][number][blank] for one in found["files"]}) > 1:
                out["differ"].append(here)
    return out


def test_markup_is_shown_as_text(tmp_path: Path, opened: Any) -> None:
    folder = hostile(tmp_path)
    write_report(report([folder / "<b>x<b>.json"], folder / "passages.jsonl"), folder / "page.html")
    page = opened(folder / "page.html")
    page.page.wait_for_selector(".chip")
    text = page.text(".text")
    start = "A <mask> and 1✗ </script> → <b>bold</b> </script><script>window.hacked=1</script>"
    assert re.sub(r"\s+", " ", text).startswith(start)
    assert "<img src=x onerror='window.hacked=2'> & 2✓ <script>" in re.sub(r"\s+", " ", text)
    assert page.text(".reading h3") == "<i>id</i>" and page.text(".runs tbody th").startswith("<b>x<b>")
    page.press("n")
    assert page.text(".options").count("<!--") == 1
    assert page.page.evaluate("[window.hacked, document.images.length]") == [None, 0]
    assert page.page.title() == "Cloze report: <b>x<b>"


EVIL = "</script><img src=x onerror='window.hacked=1'>\"><svg onload=window.hacked=2> \u2028\u202e{{}} ${1} `"


def test_hostile_text_in_every_field(tmp_path: Path, opened: Any) -> None:
    """Names of files and runs, settings, splits, notices, ids, texts, options: all of it is text, nothing runs."""
    name = EVIL.replace("/", "∕")[:60]
    folder = hostile(tmp_path / name)
    settings = {
        "task": {"view": EVIL, "scorer": EVIL},
        "model": {"_name": EVIL},
        "lr_scheduler": {"_name": EVIL, "warmup_updates": EVIL},
        "optimization": {"lr": [1e-5], "update_freq": [EVIL]},
        "dataset": {"batch_size": EVIL, "max_tokens": EVIL},
        "checkpoint": {"finetune_from_model": EVIL},
    }
    figures = {"update": 2, "epoch": 1, "loss": 1.4, "accuracy": 25.0, "chance": 25.0, "n_blanks": 40}
    chance = {"type": "chance", "update": 2, "text": EVIL, "causes": [{"text": EVIL}, EVIL], "proved": [EVIL]}
    events = [
        {"type": "started", "update": 0, "settings": settings, "folder": EVIL},
        {"type": "update", **figures},
        *({"type": "validation", "subset": subset, **figures} for subset in ("valid", EVIL, "\ud800")),
        chance,
    ]
    write_events(folder / "metrics.jsonl", events)
    records = [{"split": EVIL, "accuracy": 50.0, "chance": 25.0, "n_blanks": 9}, {"checkpoint": EVIL, "error": EVIL}]
    (folder / "validation.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    texts = ("name", "path", "digest", "view", "scorer", "other_blanks")
    source = {**SOURCE, **dict.fromkeys(texts, EVIL), "training": settings, "logs": [EVIL, EVIL]}
    origin = {**ORIGIN, "checkpoints": [source], "data_bin": EVIL, "split": EVIL, "encoding": {"text_norm": EVIL}}
    made = read_predictions(folder / "<b>x<b>.json")
    (folder / "<b>x<b>.json").rename(folder / f"predictions_{name}.json")
    lone = [tmp_path / f"{number}{name}.json" for number in "12"]
    for path in lone:
        write_predictions(path, made, read_origin(origin))
    write_report(report([folder, *lone], folder / "passages.jsonl"), tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    page.page.wait_for_selector(".chip")
    page.press("n", "j", "?")
    assert page.page.evaluate("[window.hacked, document.images.length, document.scripts.length]") == [None, 0, 2]
    shown = page.text("body")
    assert shown.count("onerror='window.hacked=1'") > 40 and name in page.page.title()


def test_the_policy_holds(tmp_path: Path, browser: Any, two: tuple[Path, Report]) -> None:
    """Even were something to slip in, it would not run, and nothing would be fetched."""
    page = Opened(browser, two[0])
    page.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            const picture = new Image();
            picture.src = "http://127.0.0.1:9/x.png";
            document.body.append(script, picture);
            document.body.insertAdjacentHTML("beforeend", "<p onclick='window.hacked = 2' id='trap'>x</p>");
            document.getElementById("trap").click();
            return fetch("http://127.0.0.1:9/").catch(() => null);
        }"""
    )
    page.page.wait_for_timeout(100)
    assert page.page.evaluate("window.hacked") is None
    for what in ("inline script", "inline event handler", "Loading the image", "Connecting to"):
        assert [text for text in page.said if what in text and "Content Security Policy" in text], page.said
    page.page.close()


def test_the_table_and_the_notice(opened: Any, two: tuple[Path, Report]) -> None:
    page = opened(two[0])
    text = re.sub(r"\s+", " ", page.text(".runs"))
    assert "good ★ best cloze_roberta, 6 layers" in text and "bad ⚠ at chance" in text
    assert "50.0% 95%: 45.1 to 54.9 valid, 400 blanks at update 2 25.0%" in text
    assert page.page.locator("tr.best th").all_inner_texts() == ["good ★ best"]
    assert page.text(".notice strong") == "bad: at chance"
    assert page.page.locator(".notice li").all_inner_texts() == [
        "the learning rate is too high <b>",
        "no English",
    ]


def test_differences_from_any_row(tmp_path: Path, opened: Any) -> None:
    """The first file is what others are compared with, until another one is chosen; an old one tells little."""
    given = {"a": "AAAA", "b": "BAAA", "c": "BBBB"}
    for name, answers in given.items():
        made = {f"p{n}": PassagePrediction(list(answers), ["B"] * 4) for n in range(8)}
        write_predictions(tmp_path / f"{name}.json", made, read_origin(ORIGIN) if name != "a" else None)
    write_report(report([tmp_path / f"{name}.json" for name in given]), tmp_path / "page.html")
    page = opened(tmp_path / "page.html")

    def rows() -> list[str]:
        return [re.sub(r"\s+", " ", row) for row in page.page.locator(".differences tr").all_inner_texts()]

    assert rows() == [
        "b +25.0 95%: +8.2 to +38.9 ✓ better, hardly by luck p = 0.0078, 32 blanks in 8 passages",
        "c +100.0 95%: +84.3 to +100.0 ✓ better, hardly by luck p = 0.0078, 32 blanks in 8 passages",
    ]
    page.page.get_by_label("Compare with").select_option(label="b")
    assert [row.split(" p =")[0] for row in rows()] == [
        "a −25.0 95%: −38.9 to −8.2 ✗ worse, hardly by luck",
        "c +75.0 95%: +54.2 to +87.0 ✓ better, hardly by luck",
    ]
    table = [re.sub(r"\s+", " ", row) for row in page.page.locator(".runs tbody tr").all_inner_texts()]
    assert table[0].startswith("a The prediction file does not say which model answered. 0.0%")
    assert table[1].startswith("b checkpoint_best.pt cloze_roberta, 6 layers of 768, from weights/model.pt view full")
    page.page.get_by_text("Checkpoints, logs and files").click()
    shown = re.sub(r"\s+", " ", page.text(".provenance"))
    source = "Checkpoint (test) /runs/a/checkpoint_best.pt after 3 updates digest " + "0" * 64
    assert f"b {source} Passages /data/bin Log /runs/a/metrics.jsonl Read {tmp_path / 'b.json'}" in shown


def test_filters(opened: Any, two: tuple[Path, Report]) -> None:
    path, made = two
    expected = passing(made)
    page = opened(path)
    page.page.wait_for_selector(".chip")
    passages, blanks = len(made.data["sets"][0]["passages"]), len(expected["all"])
    for key, (name, found) in zip("1234", expected.items()):
        page.press(key)
        ids = list(dict.fromkeys(passage for passage, _ in found))
        assert page.listed() == ids and 0 < len(found) and (name == "all" or len(found) < blanks)
        status = f"{len(ids)} of {passages} passages, {len(found)} of {blanks} blanks"
        assert page.text("[role=status]") == status
        current = page.text(".reading h3")
        dim = page.page.locator(".chip:not(.dim) sup").all_text_contents()
        assert [int(number) for number in dim] == [blank for passage, blank in found if passage == current]
    page.page.locator("input[type=range]").fill("0.7")
    assert f", {len(passing(made, below=0.7)['uncertain'])} of {blanks} blanks" in page.text("[role=status]")
    page.press("Escape", "r", "2")
    assert f", {len(passing(made, file=1)['wrong'])} of {blanks} blanks" in page.text("[role=status]")
    page.page.get_by_role("button", name="All", exact=True).click()
    page.press("/")
    page.page.keyboard.type(made.data["sets"][0]["passages"][2][0][:6].upper())
    assert page.listed() == [made.data["sets"][0]["passages"][2][0]]
    page.page.keyboard.type("234")  # goes into the search, not to the filters
    assert page.listed() == [] and page.text(".empty").startswith("No passage has such a blank")


def test_keys_walk_through_the_blanks(opened: Any, two: tuple[Path, Report]) -> None:
    path, made = two
    expected = passing(made)["wrong"]
    page = opened(path)
    page.page.wait_for_selector(".chip")
    page.press("2")

    def here() -> tuple[str, int]:
        return page.text(".reading h3"), int(page.text(".blank h3").split()[1])

    walked = []
    for _ in expected:
        page.press("n")
        walked.append(here())
        assert page.page.evaluate("document.activeElement.dataset.blank") == str(walked[-1][1] - 1)
    assert walked == expected
    page.press("n")
    assert here() == expected[-1]  # there is no further one
    back = []
    for _ in expected[1:]:
        page.press("p")
        back.append(here())
    assert back == expected[-2::-1]
    ids = list(dict.fromkeys(passage for passage, _ in expected))
    page.press("j", "j")
    assert page.text(".reading h3") == ids[2]
    page.press("k")
    assert page.text(".reading h3") == ids[1]
    assert page.page.locator(".list [aria-current=true]").all_text_contents()[0].startswith(ids[1])
    page.press("?")
    assert page.page.locator("#help").is_visible()
    page.press("j", "Escape")
    assert not page.page.locator("#help").is_visible() and page.text(".reading h3") == ids[1]


def test_what_a_blank_says(tmp_path: Path, opened: Any) -> None:
    """Right, wrong and unlabelled; by sign, by words for a screen reader, and with the options' probabilities."""
    options = [["a", "/", "an"], ["so", "but", "or"], ["x", "y", "z"]]
    score = ".list .score"
    write_passage(tmp_path / "in" / "p.json", "I saw _ dog, _ no _.", options)
    one = PassagePrediction(["B", "C", "A"], ["B", "A", None], [[0.1, 0.8, 0.1], [0.3, 0.298, 0.402], [0.5, 0.3, 0.2]])
    two = PassagePrediction(["B", "A", "A"], ["B", "A", None], [[0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.5, 0.3, 0.2]])
    for name, prediction in (("one", one), ("two", two)):
        write_predictions(tmp_path / f"{name}.json", {"p": prediction})
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    write_report(report(paths, tmp_path / "in"), tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    page.page.wait_for_selector(".chip")
    chips = page.page.locator(".chip")
    assert chips.all_inner_texts() == ["1✓ (nothing)", "2✗ or → so", "3? x"]
    assert [chip.get_attribute("aria-label") for chip in chips.all()] == [
        "blank 1: (nothing), right, probability 80%",
        "blank 2: or, wrong, right is so, probability 40%, runs disagree",
        "blank 3: x, not known whether right, probability 50%",
    ]
    assert page.label(".list button") == "p, 1 of 2 right" and page.page.locator(score).text_content() == "1/2"
    chips.nth(1).click()
    assert chips.nth(1).get_attribute("aria-expanded") == "true"
    lines = [re.sub(r"\s+", " ", line).strip() for line in page.page.locator(".options tr").all_inner_texts()]
    assert lines == [
        *("A so ★ right answer", "one: 30.0%", "two: 90.0% ✓ answered, right"),
        *("B but", "one: 29.8%", "two: 5.0%"),
        *("C or", "one: 40.2% ✗ answered, wrong", "two: 5.0%"),
    ]
    assert page.page.locator(".blank ul li").all_inner_texts() == ["one: ✗ or", "two: ✓ so"]
    page.press("r")
    assert chips.all_inner_texts()[1] == "2✓ so" and page.page.locator(score).text_content() == "2/2"
    page.press("Escape")
    assert "Choose a blank" in page.text(".blank")


def test_without_texts(tmp_path: Path, opened: Any) -> None:
    made = {"p": PassagePrediction(["A", "B"], ["A", "C"]), "q": PassagePrediction(["D"], ["D"])}
    write_predictions(tmp_path / "lone.json", made)
    write_report(report([tmp_path / "lone.json"]), tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    page.page.wait_for_selector(".chip")
    assert page.page.locator(".chip").all_inner_texts() == ["1✓ A", "2✗ B → C"]
    assert "lone.json does not say where its passages are" in page.text(".reading .notice")
    assert page.page.get_by_role("button", name="Uncertain").is_disabled()
    page.press("3", "4")
    assert page.listed() == ["p", "q"]
    assert "so there are no curves" in page.text("#curves") and "needs the data-bin" in page.text("#errors")


def test_nothing_but_a_log(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "a.log").write_text(log_text())
    write_report(report([tmp_path / "a.log"]), tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    assert "No prediction file was found" in page.text("#passages") and "No prediction file" in page.text("#errors")
    page.press("j", "n", "1", "/")
    assert page.page.locator("polyline").count() == 4


def test_curves(opened: Any, two: tuple[Path, Report]) -> None:
    page = opened(two[0])
    loss, accuracy = page.page.locator(".chart").all()
    assert accuracy.locator("polyline.valid").count() == accuracy.locator("polyline.train").count() == 2
    assert accuracy.locator("circle.dot").count() == 4 and accuracy.locator(".band").count() == 1
    texts = accuracy.locator("svg text").all_text_contents()
    assert {"human on CLOTH 85.9%", "chance 25%", "updates"} <= set(texts)
    assert "guessing 1.386" in loss.locator("svg text").all_text_contents()
    assert accuracy.locator(".readout").is_hidden()
    accuracy.locator("svg").focus()
    page.press("ArrowRight", "ArrowRight")
    rows = [re.sub(r"\s+", " ", row) for row in accuracy.locator(".readout > div").all_inner_texts()]
    assert rows == [
        "update 4",
        "good, training 24.00%",
        "good, valid 49.00%",
        "bad, training 24.00%",
        "bad, valid 26.00%",
    ]
    page.page.get_by_role("button", name="bad").first.click()
    assert accuracy.locator("polyline").count() == 2
    box = accuracy.locator("svg").bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    rows = [re.sub(r"\s+", " ", row) for row in accuracy.locator(".readout > div").all_inner_texts()]
    assert rows == ["update 2", "good, training 22.00%", "good, valid 50.00%"]


def test_errors(opened: Any, two: tuple[Path, Report]) -> None:
    path, made = two
    page = opened(path)
    file = made.data["sets"][0]["files"][0]
    shown = page.page.locator(".confusion").first.locator("tbody td").all_inner_texts()
    cells = [(count, 100 * count / max(1, sum(row))) for row in file["confusion"] for count in row]
    assert [tuple(map(int, re.findall(r"\d+", text))) for text in shown] == [
        (count, int(share + 0.5)) for count, share in cells
    ]
    first = page.page.locator(".groups").first.locator("tr").all_inner_texts()
    accuracy, low, high, _ = next(iter(file["breakdown"]["token class"].values()))
    assert f"{accuracy:.1f}% {low:.1f} to {high:.1f}" in re.sub(r"\s+", " ", first[0])


def test_light_and_dark(opened: Any, two: tuple[Path, Report]) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(245, 246, 247)", "rgb(18, 21, 24)"
    page = opened(two[0], color_scheme="dark")
    assert page.page.evaluate(background) == dark
    page.page.get_by_role("button", name="Light colours").click()
    assert page.page.evaluate(background) == light
    page.press("t")
    assert page.page.evaluate(background) == dark
    assert opened(two[0], color_scheme="light").page.evaluate(background) == light


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out(opened: Any, two: tuple[Path, Report], width: int) -> None:
    page = opened(two[0], viewport={"width": width, "height": 800})
    page.page.wait_for_selector(".chip")
    page.press("n")
    assert page.page.evaluate("document.documentElement.scrollWidth") == width
    chip, panel = (page.page.locator(one).bounding_box() for one in (".chip[aria-expanded=true]", ".blank"))
    apart = chip["y"] + chip["height"] <= panel["y"] or chip["x"] + chip["width"] <= panel["x"]
    assert apart and 0 <= chip["y"] < 800 and 0 <= panel["y"] < 800


def test_as_many_passages_as_cloth(tmp_path: Path, opened: Any) -> None:
    """805 passages, 11,270 blanks, two runs: below 10 MB, and the list is there."""
    (tmp_path / "in").mkdir()
    article = " ".join(["Much had happened between the two of them before the newspaper was _ at last."] * 14)
    options, numbers = [["between", "before", "since", "later"]] * 14, range(805)
    lines = [{"id": f"high/{n}", "article": article, "options": options, "answers": ["A"] * 14} for n in numbers]
    (tmp_path / "in" / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name, given in (("one", "B"), ("two", "A")):
        prediction = PassagePrediction([given] * 14, ["A"] * 14, [[0.2412, 0.2561, 0.2519, 0.2508]] * 14)
        write_predictions(tmp_path / f"{name}.json", {f"high/{n}": prediction for n in numbers})
    write_report(report([tmp_path / "one.json", tmp_path / "two.json"], tmp_path / "in"), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 10e6
    page = opened(tmp_path / "page.html")
    page.page.wait_for_selector(".chip")
    assert page.text("[role=status]") == "805 of 805 passages, 11,270 of 11,270 blanks"
    assert page.page.locator(".list button").count() == 805 and page.page.locator(".chip").count() == 14
