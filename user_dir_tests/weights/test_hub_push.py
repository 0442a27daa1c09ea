"""``export-hf --push`` and import by name, over HTTP, with a hub of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.weights.hub_push import Hub

from ..support.commands import run
from ..support.hub_server import HubServer, Repository

FILES = ("README.md", "config.json", "merges.txt", "model.safetensors", "tokenizer_config.json", "vocab.json")


def test_there_and_back(tmp_path: Path, pretrained: Path) -> None:
    """What is pushed is the folder, without a stale tokenizer; a new name is private, and imports as it was."""
    notes = tmp_path / "out" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with HubServer(repositories={"me/old": Repository(False, {"tokenizer.json": b"{}", "pictures.png": b""})}) as hub:
        env = {**hub.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        export = ("fairseq-cloze", "export-hf", pretrained / "model.pt", "--out", tmp_path / "out", "--push")
        for name, option, found in (
            ("me/small", (), "me/small"),
            ("old", (), "me/old"),
            ("new", ("--public",), "me/new"),
        ):
            done = run(*export, name, *option, env=env)
            assert done.text.endswith(f"pushed to {hub.url}/{found}\n")
        pushed = {path: (tmp_path / "out" / path).read_bytes() for path in FILES}
        assert hub.repositories == {
            "me/old": Repository(False, {**pushed, "README.md": card(pushed, "old"), "pictures.png": b""}, [MESSAGE]),
            "me/small": Repository(True, {**pushed, "README.md": card(pushed, "me/small")}, [MESSAGE]),
            "me/new": Repository(False, pushed, [MESSAGE]),
        }
        done = run("fairseq-cloze", "import-hf", "me/small", "--out", tmp_path / "back", env=env)
        assert f"wrote {tmp_path}/back/model.pt\n" in done.text
    assert (tmp_path / "back" / "encoder.json").read_bytes() == (pretrained / "encoder.json").read_bytes()


MESSAGE = "Export of fairseq-cloze"


def card(pushed: dict[str, bytes], name: str) -> bytes:
    """The card of the last export with another name."""
    title = name.rpartition("/")[2]
    text = pushed["README.md"].decode().replace("# new\n", f"# {title}\n").replace('"new"', f'"{name}"')
    return text.encode()


def test_a_hub_that_does_not_take_it(tmp_path: Path, pretrained: Path) -> None:
    """A wrong token is found before anything is written, and never shown; what is written stays."""
    out = tmp_path / "out"
    export = ("fairseq-cloze", "export-hf", pretrained / "model.pt", "--out", out, "--push", "me/small")
    with HubServer() as hub:
        env = {**hub.environment(tmp_path / "home", "hf_" + "x" * 34), "HF_HUB_OFFLINE": "0"}
        refused = run(*export, env=env, code=1).text
        assert refused.startswith("Error: --push: the hub does not take me/small (Invalid user token.")
        assert refused.endswith("; run 'hf auth login' with a token that may write, or look at the network\n")
        assert "xxx" not in refused and not out.exists() and len(refused.splitlines()) == 1
        hub.broken = "preupload"
        failed = run(*export, env={**env, **hub.environment(tmp_path / "home")}, code=1).text
    wrote, problem = failed.splitlines()
    assert wrote == f"wrote {out}, load it with transformers.RobertaForMaskedLM.from_pretrained"
    assert problem.startswith("Error: --push: the hub does not take me/small (507 Server Error: Insufficient Storage")
    assert problem.endswith(f"); {out} is written; give the command again, or upload that folder")
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a b", "x.git", "a--b", "-a", "a" * 97])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ClozeError) as error:
        Hub(name)
    assert str(error.value) == f"--push: expected a name such as me/my-model, found '{name}'"


def test_nobody_logged_in(tmp_path: Path, pretrained: Path) -> None:
    env = {"HF_HOME": str(tmp_path), "HF_TOKEN": ""}
    command = ("fairseq-cloze", "export-hf", pretrained / "model.pt", "--out", tmp_path / "out")
    assert run(*command, "--push", "me/x", env=env, code=1).text == (
        "Error: --push: you are not logged in to the Hugging Face hub; run 'hf auth login', or set HF_TOKEN\n"
    )
    assert run(*command, "--public", env=env, code=2).text.endswith(
        "Error: --public says who sees what --push puts on the hub; give --push NAME, too\n"
    )
