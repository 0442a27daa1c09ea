"""Every change to fairseq: written for the fairseq that is installed, made once, and doing what it is for."""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairseq_cloze import register

from ..support.commands import ROOT, free_port, start
from ..support.warm import FAIRSEQ

register()

import fairseq_cli.train  # noqa: E402
from fairseq.distributed import utils as distributed_utils  # noqa: E402
from fairseq.file_io import PathManager  # noqa: E402

from fairseq_cloze.plugin import patches  # noqa: E402
from fairseq_cloze.plugin.patches import PATCHES, install_all  # noqa: E402

install_all()  # once more, as fairseq's training may have been loaded after the plugin

REPLACED = {name: digest for patch in PATCHES for name, digest in patch.replaced.items()}


def digest_of(function: Any) -> str:
    """As :class:`fairseq_cloze.plugin.patches.Patch` has it; of fairseq's own function where it was replaced."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    return hashlib.sha256("\n".join(line.rstrip() for line in lines if line.strip()).encode()).hexdigest()


@pytest.mark.parametrize("name", REPLACED)
def test_fairseqs_function_is_the_one_that_the_patch_was_written_for(name: str) -> None:
    """Where this fails, a new fairseq is installed: see whether the patch is still needed and right, then mend both."""
    assert digest_of(pkgutil.resolve_name(name)) == REPLACED[name]


def test_a_change_of_fairseqs_function_is_noticed() -> None:
    def copy(source: str) -> str:
        return source

    first = digest_of(copy)

    def copy(source: str) -> str:  # type: ignore[no-redef]
        return source + ""

    assert digest_of(copy) != first


def test_there_are_at_most_seven_and_the_table_names_them_all() -> None:
    assert len(PATCHES) <= 7
    text = (ROOT / "docs" / "decisions.md").read_text()
    for patch in PATCHES:
        [row] = [line for line in text.splitlines() if line.startswith(f"| `{patch.install.__name__}` ")]
        assert all(f"`{name}`" in row for name in patch.replaced), patch.install.__name__


def test_nothing_else_assigns_into_fairseq() -> None:
    """No other module sets an attribute of a module or class of fairseq, or a ``__class__``."""
    import ast

    for path in (ROOT / "fairseq_cloze").rglob("*.py"):
        if path.name == "patches.py":
            continue
        tree = ast.parse(path.read_text())
        imported = {
            alias.asname or alias.name.split(".")[0]
            for node in ast.walk(tree)
            for alias in getattr(node, "names", [])
            if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("fairseq", "fairseq_cli"))
            or (isinstance(node, ast.Import) and alias.name.split(".")[0] in ("fairseq", "fairseq_cli"))
        }
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                while isinstance(target, ast.Attribute):
                    target = target.value
                    assert not (isinstance(target, ast.Name) and target.id in imported), f"{path}:{node.lineno}"
                assert not (isinstance(target, ast.Attribute) and target.attr == "__class__"), f"{path}:{node.lineno}"


def test_each_is_made_once() -> None:
    before = [pkgutil.resolve_name(name) for name in REPLACED]
    assert all(function.__module__ == function.__wrapped__.__module__ for function in before)
    assert all(function.__code__.co_filename == patches.__file__ for function in before)
    assert not any(function.__wrapped__.__code__.co_filename == patches.__file__ for function in before)
    install_all()
    register()
    assert [pkgutil.resolve_name(name) for name in REPLACED] == before


# -- what each is for ------------------------------------------------------------------------------------------------


def test_copies_of_checkpoints_are_whole(tmp_path: Path) -> None:
    """A reader of checkpoint_last.pt sees the old content or the new, never a part."""
    size = 20_000_000
    source, target = tmp_path / "checkpoint_1.pt", tmp_path / "checkpoint_last.pt"
    target.write_bytes(b"0" * size)
    seen: list[bytes] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            content = target.read_bytes()
            seen.append(content[:1] + content[-1:] + (b"" if len(content) == size else b"cut"))

    thread = threading.Thread(target=watch)
    thread.start()
    for digit in b"123":
        source.write_bytes(bytes([digit]) * size)
        assert PathManager.copy(str(source), str(target), overwrite=True)
    stop.set()
    thread.join()
    assert set(seen) <= {b"00", b"11", b"22", b"33"}
    assert target.read_bytes()[:1] == b"3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_1.pt", "checkpoint_last.pt"]


def test_copies_that_are_not_wanted_or_not_local_are_fairseqs(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("a")
    (tmp_path / "b.pt").write_text("b")
    with pytest.raises(FileNotFoundError):
        PathManager.copy("nowhere://a.pt", str(tmp_path / "c.pt"), overwrite=True)
    assert not (tmp_path / "c.pt").exists()


EXCHANGE = """
import sys, torch, fairseq_cloze
from argparse import Namespace
fairseq_cloze.register()
from fairseq.distributed import utils
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
group = torch.distributed.group.WORLD
state = {"cfg": {"task": Namespace(_name="x")}, "model": {"w": torch.arange(3)}, "large": "x" * 100_000}
got = utils.broadcast_object(state if rank == 0 else None, src_rank=0, group=group)
print(got["cfg"]["task"]._name, got["model"]["w"].tolist(), len(got["large"]))
print([(len(text), number) for text, number in utils.all_gather_list(("y" * 50_000, rank))])
torch.distributed.destroy_process_group()
"""


def test_checkpoints_and_sums_are_exchanged_on_cpus_whatever_their_size() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    workers = [start(sys.executable, "-c", EXCHANGE, rank, address, warm=FAIRSEQ) for rank in (0, 1)]
    for worker in workers:
        text, _ = worker.communicate(timeout=120)
        assert text.splitlines()[-2:] == ["x [0, 1, 2] 100000", "[(50000, 0), (50000, 1)]"], text


def options(**changed: Any) -> Any:
    """fairseq's configuration of everything, on a CPU."""
    from fairseq.dataclass.configs import FairseqConfig
    from omegaconf import OmegaConf

    cfg = OmegaConf.structured(FairseqConfig())
    cfg.common.cpu = True
    cfg.distributed_training.update(changed)
    return cfg


def test_torchruns_variables_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fairseq is to do is looked at where it begins to: as process 1 of 2 it would wait for the other."""
    seen: list[Any] = []
    monkeypatch.setattr(distributed_utils, "distributed_main", lambda device, main, cfg, kwargs: seen.append(cfg))
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "here", "MASTER_PORT": 29}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOGLEVEL", "INFO")
    distributed_utils.call_main(options(), print)
    [cfg] = seen
    before = options().distributed_training
    assert {name: value for name, value in cfg.distributed_training.items() if value != before[name]} == {
        **{"distributed_init_method": "env://", "distributed_world_size": 2, "distributed_rank": 1},
        **{"device_id": 1, "distributed_no_spawn": True, "distributed_backend": "gloo", "ddp_backend": "legacy_ddp"},
    }
    distributed_utils.call_main(options(distributed_init_method="tcp://there:1", distributed_no_spawn=True), print)
    assert seen[1].distributed_training.distributed_init_method == "tcp://there:1"


def test_a_process_alone_calls_main(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    calls: list[Any] = []
    distributed_utils.call_main(options(), lambda cfg, word: calls.append(word), word="so")
    assert calls == ["so"]


def test_a_training_that_is_complete_makes_no_update() -> None:
    task = SimpleNamespace(done="7 of 7 updates are done")
    trainer = SimpleNamespace(get_num_updates=lambda: 7)
    assert fairseq_cli.train.train(None, trainer, task, SimpleNamespace(next_epoch_idx=2)) == ([None], True)


@pytest.mark.parametrize(("rate", "told"), [(0.5, []), (0.1, ["finished"]), (0.0, ["finished"])])
def test_a_learning_rate_that_ends_a_training_is_told_once(rate: float, told: list[str]) -> None:
    """fairseq looks at it between two epochs, after it has stepped it."""
    kinds: list[str] = []
    cfg, events = SimpleNamespace(optimization=SimpleNamespace(stop_min_lr=0.1)), SimpleNamespace(tell=kinds.append)

    class Trainer:
        def lr_step(self, epoch: int, loss: Any = None) -> float:
            return rate

    trainer = Trainer()
    patches._tell_when_rate_ends_it(cfg, trainer, events)
    assert [trainer.lr_step(1, None), trainer.lr_step(2)] == [rate, rate]
    assert kinds == told
