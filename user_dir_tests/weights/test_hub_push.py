"""``export-hf --push`` and import by name, over HTTP, with a hub of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from huggingface_hub.utils import reset_sessions

from fairseq_cloze.cli.export_hf import command
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.weights.hub_push import Hub

from ..support.commands import run
from ..support.hub_server import TOKEN, HubServer, Repository

FILES = ("README.md", "config.json", "merges.txt", "model.safetensors", "tokenizer_config.json", "vocab.json")
MESSAGE = "Export of fairseq-cloze"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The hub of this process, to which it is logged in."""
    with HubServer() as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name, value in {"ENDPOINT": server.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        reset_sessions()  # one that was opened offline stays so
        yield server
        reset_sessions()


def export(*arguments: Any, code: int = 0) -> str:
    """What the command says, an error last."""
    done = CliRunner().invoke(command, list(map(str, arguments)))
    if isinstance(done.exception, ClozeError):
        assert code == 1
        return f"{done.stdout}Error: {done.exception}\n"
    assert done.exit_code == code, done.output
    return done.output if code else done.stdout


def test_what_is_pushed(tmp_path: Path, pretrained: Path, hub: HubServer) -> None:
    """What is pushed is the export, without a stale tokenizer; a new name is private."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    hub.repositories["me/old"] = Repository(False, {"tokenizer.json": b"{}", "picture.png": b""})
    pushed = {}
    for name, option, found in (("me/small", (), "me/small"), ("old", (), "me/old"), ("new", ("--public",), "me/new")):
        said = export(pretrained / "model.pt", "--out", out, "--push", name, *option)
        assert said == (
            f"wrote {out}, load it with transformers.RobertaForMaskedLM.from_pretrained\npushed to {hub.url}/{found}\n"
        )
        pushed[found] = {path: (out / path).read_bytes() for path in FILES}
        assert f'load("{name}")' in pushed[found]["README.md"].decode()
    assert hub.repositories == {
        "me/old": Repository(False, {**pushed["me/old"], "picture.png": b""}, [MESSAGE]),
        "me/small": Repository(True, pushed["me/small"], [MESSAGE]),
        "me/new": Repository(False, pushed["me/new"], [MESSAGE]),
    }


def test_a_hub_that_does_not_take_it(
    tmp_path: Path, pretrained: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong token is found before anything is written, and never shown; what is written stays."""
    out = tmp_path / "out"
    hub.broken = "preupload"
    wrote, problem = export(pretrained / "model.pt", "--out", out, "--push", "me/small", code=1).splitlines()
    assert wrote == f"wrote {out}, load it with transformers.RobertaForMaskedLM.from_pretrained"
    assert problem.startswith("Error: --push: the hub does not take me/small (507 Server Error: Insufficient Storage")
    assert problem.endswith(f"); {out} is written; give the command again, or upload that folder")
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(ClozeError) as error:
        Hub("me/small")
    assert str(error.value).startswith("--push: the hub does not take me/small (Invalid user token.")
    assert str(error.value).endswith("; run 'hf auth login' with a token that may write, or look at the network")
    assert "xxx" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a b", "x.git", "a--b", "-a", "a" * 97])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ClozeError) as error:
        Hub(name)
    assert str(error.value) == f"--push: expected a name such as me/my-model, found '{name}'"


def test_nobody_logged_in(tmp_path: Path, pretrained: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert export(pretrained / "model.pt", "--out", tmp_path / "out", "--push", "me/x", code=1) == (
        "Error: --push: you are not logged in to the Hugging Face hub; run 'hf auth login', or set HF_TOKEN\n"
    )
    assert not (tmp_path / "out").exists() and not hub.asked
    assert export(pretrained / "model.pt", "--out", tmp_path / "out", "--public", code=2).endswith(
        "Error: --public says who sees what --push puts on the hub; give --push NAME, too\n"
    )


@pytest.mark.slow
def test_there_and_back_by_the_commands(tmp_path: Path, pretrained: Path) -> None:
    with HubServer() as hub:
        env = {**hub.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        out = tmp_path / "out"
        done = run("fairseq-cloze", "export-hf", pretrained / "model.pt", "--out", out, "--push", "me/small", env=env)
        assert done.text.endswith(f"pushed to {hub.url}/me/small\n")
        done = run("fairseq-cloze", "import-hf", "me/small", "--out", tmp_path / "back", env=env)
        assert f"wrote {tmp_path}/back/model.pt\n" in done.text
    assert (tmp_path / "back" / "encoder.json").read_bytes() == (pretrained / "encoder.json").read_bytes()
