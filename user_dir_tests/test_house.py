"""How tests and scripts are built; import-linter sees to the package."""

from __future__ import annotations

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from .support.commands import ROOT

TESTS = ROOT / "user_dir_tests"


def imported(path: Path) -> set[str]:
    """Full names of the modules, or of what is in them, that a file of the tests imports from the tests."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            names |= {module, *(f"{module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
    return {name for name in names if name.startswith("user_dir_tests.")}


def is_of_tests(name: str) -> bool:
    return any(part.startswith("test_") or part == "conftest" for part in name.split("."))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_nothing_imports_a_test(path: Path) -> None:
    """What tests share lies in support."""
    assert [name for name in imported(path) if is_of_tests(name)] == []


def test_what_an_import_of_a_test_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above is not blind."""
    monkeypatch.setattr("user_dir_tests.test_house.ROOT", tmp_path)
    path = tmp_path / "user_dir_tests" / "room" / "test_one.py"
    path.parent.mkdir(parents=True)
    for line, name in (
        ("from ..conftest import PASSAGES", "user_dir_tests.conftest"),
        ("from .test_two import helper", "user_dir_tests.room.test_two"),
        ("from . import test_two", "user_dir_tests.room.test_two"),
        ("from ..other.test_two import helper", "user_dir_tests.other.test_two"),
        ("def late():\n    import user_dir_tests.other.test_two", "user_dir_tests.other.test_two"),
    ):
        path.write_text(line)
        assert name in filter(is_of_tests, imported(path))
    path.write_text("import test.support\nfrom ..support.commands import run\nfrom fairseq_cloze import test_data")
    assert imported(path) == {"user_dir_tests.support.commands", "user_dir_tests.support.commands.run"}


def test_scripts_do_not_import_each_other_in_circles() -> None:
    files = {path.stem: path for path in (ROOT / "scripts").glob("*.py")}
    imports: dict[str, set[str]] = {}
    for name, path in files.items():
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        modules = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
        modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        imports[name] = modules & set(files)
    assert imports["gpu_check"] == {"gpu_measure", "gpu_report", "gpu_runs"}
    assert set(TopologicalSorter(imports).static_order()) == set(files)  # CycleError names a circle


def test_pre_commit_runs_what_the_script_runs() -> None:
    script = (ROOT / "scripts" / "test.sh").read_text()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = [line.split("entry: .venv/bin/")[1] for line in hooks.splitlines() if "entry:" in line]
    assert entries == [
        "ruff check --force-exclude",
        "ruff format --check --force-exclude",
        "mypy",
        "lint-imports --no-logo",
    ]
    checks = re.findall(r"^ *((?:ruff|mypy|lint-imports)\b.*)$", script, re.M)
    assert checks == ["ruff check .", "ruff format --check .", "mypy", "lint-imports --no-logo"]


def test_the_map_names_every_room_and_module_in_order_of_the_layers() -> None:
    page = (ROOT / "docs" / "developing.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^### `([\w/]+)/`\n(.*?)(?=^##)", page, re.M | re.S)
    mapped = {room: sorted(re.findall(r"^\| `(\w+)` \|", text, re.M)) for room, text in rooms}
    package = ROOT / "fairseq_cloze"
    folders = {str(path.parent.relative_to(ROOT)): path.parent for path in package.rglob("__init__.py")}
    folders = {name.removeprefix("fairseq_cloze/"): folder for name, folder in folders.items()}
    existing = {room: sorted(path.stem for path in folder.glob("*.py")) for room, folder in folders.items()}
    assert mapped == {room: [name for name in names if name != "__init__"] for room, names in existing.items()}
    [layers, *_] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert ["fairseq_cloze", *reversed(layers["layers"][:-1])] == [room for room in mapped if "/" not in room]
