"""Every command of README.md and docs/ is run, in the order of the page, on the example passages and a small model.

Code blocks marked ``bash`` are run; those marked ``bash long`` with four updates, ``bash gpu`` besides without
``--fp16`` where there is no GPU, ``bash slow`` by ``--all`` only. ``bash again`` is run for another page; ``bash
install`` is what scripts/setup.sh does. Blocks marked ``python`` are run, too; those marked ``python shown`` need more
than is there.
"""

from __future__ import annotations

import pkgutil
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch

from fairseq_cloze import register
from fairseq_cloze.cli import COMMANDS

from .support.commands import BIN, PASSAGES, ROOT, environment, run, warm_path
from .support.option_table import TABLE
from .support.warm import OURS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Kind (``bash``, ``bash gpu`` ...) and text of each code block, unindented."""
    found = []
    for indent, kind, text in re.findall(r"^( *)```(\w[^\n]*)?\n(.*?)^ *```$", page.read_text(), re.M | re.S):
        found.append((kind.strip(), "".join(line[len(indent) :] for line in text.splitlines(keepends=True))))
    return found


@pytest.fixture
def sandbox(tmp_path: Path, hf_folder: Path, bert_folder: Path) -> Path:
    """The repository's folders, and a hub cache in which every RoBERTa is the small one, and BERT a small one."""
    (tmp_path / "fairseq_cloze").symlink_to(ROOT / "fairseq_cloze")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")  # beside them there is no .venv, so PATH says what runs
    (tmp_path / "examples").mkdir()
    for folder in (ROOT / "examples").iterdir():
        (tmp_path / "examples" / folder.name).symlink_to(PASSAGES if folder.name == "passages" else folder)
    models = dict.fromkeys(("roberta-base", "roberta-large", "distilroberta-base"), hf_folder)
    for name, source in {**models, "bert-base-cased": bert_folder}.items():
        snapshot = tmp_path / "hub" / f"models--{name}" / "snapshots" / "0123456789abcdef"
        shutil.copytree(source, snapshot)
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text(snapshot.name)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "roberta").symlink_to(hf_folder)
    (tmp_path / "cloth").symlink_to(PASSAGES)
    return tmp_path


RUN = ("bash", "bash long", "bash gpu")

#: Pages whose commands take a minute and are run by other tests, too, in one form or another.
SLOW = (
    *("training.md", "results.md", "benchmarks.md", "analysis.md", "report.md", "pretraining.md", "scaling.md"),
    *("steps.md", "watch.md", "weights.md", "generate.md", "round.md"),
)

SLOWLY = (pytest.mark.slow, pytest.mark.timeout(1800))


def _shortened(command: str) -> str:
    assert re.search(r"--max-update |--epochs |\bUPDATES=", command)
    command = re.sub(r"(--max-update |--total-num-update |\bUPDATES=)\d+", r"\g<1>4", command)
    command = re.sub(r"(--epochs )[\d.]+", r"\g<1>0.1", command)
    command = re.sub(r"(--warmup-updates |--save-interval-updates |\bWARMUP=|\bSAVE_EVERY=)\d+", r"\g<1>2", command)
    return command if torch.cuda.is_available() else command.replace("--fp16", "")


def _command(kind: str, text: str) -> str:
    if kind == "python":
        return f"cat > example.py <<'END OF EXAMPLE'\n{text}END OF EXAMPLE\npython example.py"
    return text if kind == "bash" else _shortened(text)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=SLOWLY if page.name in SLOW else []) for page in PAGES],
    ids=lambda page: page.name,
)
def test_commands(page: Path, sandbox: Path) -> None:
    kinds = [kind for kind, _ in blocks(page)]
    assert set(kinds) <= {
        *RUN,
        "bash slow",
        "bash again",
        "bash install",
        "json",
        "mermaid",
        "python",
        "python shown",
        "text",
        "toml",
    }, kinds
    commands = [_command(kind, text) for kind, text in blocks(page) if kind in (*RUN, "python")]
    if not commands:
        pytest.skip(f"{page.name} has no commands")
    script = "set -euo pipefail\n" + "\n".join(commands)
    env = {"HF_HUB_CACHE": str(sandbox / "hub"), **warm_path(sandbox / "bin", *OURS)}
    ran = run("bash", "-c", script, cwd=sandbox, env=env)
    if page.name == "README.md":
        exam, answers = [text for kind, text in blocks(page) if kind == "text"]
        assert exam == (ROOT / "examples" / "exam.txt").read_text()
        assert answers in ran.text and "\nwent\n" in ran.text, ran.text


SLOW_COMMANDS = [
    pytest.param(text, id=f"{page.name}-{number}", marks=SLOWLY)
    for page in PAGES
    for number, (kind, text) in enumerate(blocks(page))
    if kind == "bash slow"
]


@pytest.mark.parametrize("command", SLOW_COMMANDS)
def test_slow_commands(command: str, sandbox: Path) -> None:
    made = next(text for _, text in blocks(ROOT / "docs" / "training.md") if "--out data-bin" in text)  # what some take
    run("bash", "-c", f"set -euo pipefail\n{made}\n{command}", cwd=sandbox, env={"HF_HUB_CACHE": str(sandbox / "hub")})


def test_what_is_said_again_is_run_elsewhere() -> None:
    run_blocks = {text for page in PAGES for kind, text in blocks(page) if kind in RUN}
    again = [text for page in PAGES for kind, text in blocks(page) if kind == "bash again"]
    assert again and [text for text in again if text not in run_blocks] == []


def test_installing_is_what_setup_does() -> None:
    commands = [text for page in PAGES for kind, text in blocks(page) if kind == "bash install"]
    assert set(commands) == {"pip install -e '.[fairseq,hub]'\n"}
    assert '-e ".[$extras]"' in (ROOT / "scripts" / "setup.sh").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "examples").rglob("*.py"))], ids=lambda path: path.name)
def test_names_of_the_package_exist(path: Path) -> None:
    register()  # some are of the plugin
    text = path.read_text()
    names = set(re.findall(r"fairseq_cloze(?:\.\w+)+", text))
    for module, imported in re.findall(r"from (fairseq_cloze[\w.]*) import ([\w, ]+)", text):
        names |= {f"{module}.{name.split(' as ')[0]}" for name in imported.split(", ")}
    for name in names:
        pkgutil.resolve_name(name)


def test_every_page_and_command_is_in_the_manual() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    tables, _, pages = text.partition("\n## All pages\n")
    assert "docs/commands.md" in (ROOT / "README.md").read_text()
    listed = [*re.findall(r"^- \[[^]]*\]\(([\w-]+\.md)\)", pages, re.M), "commands.md"]
    assert sorted(listed) == sorted(page.name for page in PAGES[1:])
    rows = "".join(line for line in tables.splitlines() if line.startswith("|"))
    assert [command for command in COMMANDS if f"`{command}`" not in rows] == []


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Links and their anchors included; what is loaded when it is read comes with it."""
    config = ROOT / "scripts" / "site.yml"
    env = {**environment(), "NO_MKDOCS_2_WARNING": "1"}
    command = [BIN / "mkdocs", "build", "--strict", "--quiet", "--config-file", config, "--site-dir", tmp_path / "site"]
    ran = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    made = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert {page.stem for page in PAGES[1:]} <= made
    loading = re.compile("<(script|img|iframe)[^>]* src=.?https?:|<link[^>]* rel=.?(stylesheet|preconnect)[^>]*https?:")
    pages = {str(path): path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert [name for name, text in pages.items() if loading.search(text)] == []


def test_the_container_is_as_setup_does() -> None:
    dockerfile = ROOT / "examples" / "docker" / "Dockerfile"
    run(BIN / "hadolint", "--no-color", dockerfile)
    [torch_version] = re.findall(r" torch==(\S+)$", dockerfile.read_text(), re.M)
    assert f"torch=${{TORCH:-{torch_version}}}" in (ROOT / "scripts" / "setup.sh").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    let_in = re.findall(r"^!(.*)$", dockerfile.with_name("Dockerfile.dockerignore").read_text(), re.M)
    assert set(let_in) == {"LICENSE", project["readme"], "pyproject.toml", "setup.py", "fairseq_cloze", "examples"}
    assert all((ROOT / name).exists() for name in let_in)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_exist(page: Path) -> None:
    """Options written in running text are options of some command, or the beginning of some (``--reset-*``)."""
    known, gone = _known_options(), _gone_options()
    assert not known & gone
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    for option in re.findall(r"`(--[a-z][a-z0-9-]*)", text):
        assert option in known | gone or any(name.startswith(option) for name in known if option.endswith("-")), option


def _gone_options() -> set[str]:
    """Those that the decisions say there are no more."""
    return set(re.findall(r"^\*\*There is no `(--[a-z-]+)`", (ROOT / "docs" / "decisions.md").read_text(), re.M))


def _known_options() -> set[str]:
    from fairseq.dataclass import configs
    from fairseq.optim.lr_scheduler.polynomial_decay_schedule import PolynomialDecayLRScheduleConfig

    register()
    from fairseq_cloze.cli import main
    from fairseq_cloze.plugin.criterion import ClozeRankingCriterionConfig
    from fairseq_cloze.plugin.model import ClozeRobertaConfig
    from fairseq_cloze.plugin.task import ClozeRankingConfig

    groups = [value for name, value in vars(configs).items() if name.endswith("Config")]
    groups += [PolynomialDecayLRScheduleConfig, ClozeRankingConfig, ClozeRankingCriterionConfig, ClozeRobertaConfig]
    names = {field.replace("_", "-") for group in groups for field in group.__dataclass_fields__}
    known = {f"--{name}" for name in names} | {
        "--help",
        "--restore-file",
        "--user-dir",
        "--arch",
        "--task",
        "--criterion",
    }
    for command in COMMANDS:
        parameters = main.get_command(None, command).params
        known |= {option for param in parameters for option in (*param.opts, *param.secondary_opts)}
    known |= {option for rows in TABLE.values() for row in rows for option in row.options}
    for script in (*(ROOT / "scripts").glob("*.*"), ROOT / "examples" / "docker" / "Dockerfile"):
        known |= set(re.findall(r"--[a-z][a-z0-9-]*", script.read_text()))
    return known
