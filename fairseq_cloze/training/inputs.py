"""Inputs: passages and weights as they were given, made into what a training starts from.

What is made belongs to the content of the inputs, not to their names: a folder of other content is refused.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from ..data.databin import MANIFEST, is_data_bin
from ..data.encoding import DEFAULT_ENCODING
from ..data.prepare import prepare
from ..errors import ClozeError, printable
from ..files import PathLike, open_regular, write_text
from ..passages.reading import files_under
from ..weights.carried import MODEL_FILE

INPUTS = "inputs.txt"  #: names and digests of what a folder was made from
WEIGHTS, DATA, CHECKPOINTS = "weights", "data-bin", "checkpoints"  #: folders that are made

#: What a folder of passages may call its splits.
_SPLITS = {"train": ("train",), "valid": ("valid", "validation", "dev", "val"), "test": ("test",)}
_ENDINGS = ("", ".jsonl", ".json")


@dataclass(frozen=True)
class Inputs:
    """What a training was given."""

    pretrained: str  #: file or folder of weights, or a name of the Hugging Face hub
    data_bin: Path | None = None
    passages: Mapping[str, Sequence[Path]] | None = None  #: by split, where there is no data-bin yet
    preparing: Mapping[str, Any] = field(default_factory=dict)  #: how to prepare them, arguments of ``prepare`` by name

    def digests(self) -> dict[str, str]:
        """SHA-256 by name."""
        if self.data_bin is not None:
            parts: dict[str, Sequence[PathLike]] = {"data-bin": [self.data_bin / MANIFEST]}  # which has all digests
        else:
            parts = {f"--{split}" if split != "train" else "passages": paths for split, paths in self._splits()}
        digests = {name: _digest(paths) for name, paths in {**parts, "--pretrained": [self.pretrained]}.items()}
        for name, value in _chosen(self.preparing).items():
            if name not in ("--workers", "--on-error"):  # what is made is the same with them
                digests[name] = hashlib.sha256(str(value).encode(errors="surrogateescape")).hexdigest()
        return digests

    def _splits(self) -> list[tuple[str, Sequence[Path]]]:
        return list((self.passages or {}).items())


def read_inputs(
    data: PathLike,
    pretrained: str,
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    preparing: Mapping[str, Any] | None = None,
) -> Inputs:
    """Look at what was given.

    Args:
        data: a data-bin; a folder with passages in ``train``, ``valid``, ``test``; or passages to train on
        pretrained: see :class:`Inputs`
        valid, test: passages of these splits, also in place of those in *data*
        preparing: how passages are encoded, arguments of :func:`fairseq_cloze.data.prepare.prepare` by name

    Raises:
        ClozeError: something is not there, or does not go together
    """
    path = Path(data)
    if not os.path.exists(path):
        raise ClozeError(f"{data}: no such file or folder; expected a data-bin, or passages to train on")
    if is_data_bin(path):
        if valid or test:
            raise ClozeError(f"{data}: a data-bin has its own splits; leave out --valid and --test, or give passages")
        if chosen := _chosen(preparing or {}):
            raise ClozeError(f"{data}: a data-bin is prepared already; leave out {', '.join(chosen)}, or give passages")
        return Inputs(pretrained, data_bin=path)
    given = {split: list(map(Path, paths)) for split, paths in (("valid", valid), ("test", test)) if paths}
    found = {split: _entries(path, names) for split, names in _SPLITS.items()} if path.is_dir() else {}
    others = [entry for split in ("valid", "test") for entry in found.get(split, [])]
    if others and not found["train"]:  # or it would train on them
        raise ClozeError(f"{data}: expected passages to train on, as 'train', beside {others[0].name}; found none")
    passages = {**(found if found.get("train") else {"train": [path]}), **given}
    for split, paths in passages.items():
        if len(paths) > 1 and split not in given:
            names = " and ".join(entry.name for entry in paths)
            advice = "leave one of them there" if split == "train" else f"name the one that is meant with --{split}"
            raise ClozeError(f"{data}: expected one '{split}', found {names}; {advice}")
    for split, paths in passages.items():
        for each in paths:
            if not os.path.exists(each):
                raise ClozeError(f"--{split}: {each}: no such file or folder; check the path")
    return Inputs(pretrained, None, {split: paths for split, paths in passages.items() if paths}, preparing or {})


def _chosen(preparing: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from what ``prepare`` does without, by its option on the command line."""

    def flat(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, **asdict(values.get("options", DEFAULT_ENCODING))}

    usual = flat({name: signature(prepare).parameters[name].default for name in preparing})
    found = {name: value for name, value in flat(preparing).items() if name != "options" and value != usual[name]}
    return {f"--{name.replace('_', '-')}": value for name, value in found.items()}


def _entries(folder: Path, names: Sequence[str]) -> list[Path]:
    found = [folder / f"{name}{ending}" for name in names for ending in _ENDINGS]
    return [path for path in found if path.exists()]


def _digest(paths: Sequence[PathLike]) -> str:
    """SHA-256 of files, or of the files in folders with their names there; what is no path stands for itself.

    What is hidden in a folder is left out, as who reads passages leaves it out.
    """
    total = hashlib.sha256()
    for path in paths:
        if os.path.isdir(path):
            for file in files_under(Path(path), ("",))[0]:
                total.update(os.fsencode(file.relative_to(path)) + b"\0" + _of_file(file))
        elif os.path.exists(path):
            total.update(b"file\0" + _of_file(path))
        else:
            total.update(b"name\0" + os.fsencode(path))
        total.update(b"\0\0")
    return total.hexdigest()


def _of_file(path: PathLike) -> bytes:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ClozeError(f"{os.fspath(path)}: cannot be read ({error.strerror}); check the file") from error


def claim(out: Path, inputs: Inputs) -> None:
    """Record in a folder what is made there from now on, or make sure that what is there was made from the same.

    Raises:
        ClozeError: it was made from other inputs; names them
    """
    digests = inputs.digests()
    if not any(path.exists() for path in (out / DATA, out / WEIGHTS, out / CHECKPOINTS, *out.glob("seed*"))):
        write_text(out / INPUTS, "".join(f"{name} {digest}\n" for name, digest in digests.items()))
        return
    try:
        lines = (out / INPUTS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    known = dict(line.partition(" ")[::2] for line in lines)
    others = [name for name in {**known, **digests} if known.get(name) != digests.get(name)]
    if others:
        raise ClozeError(
            f"{out}: was made from other inputs ({', '.join(map(printable, others))}); choose another --out, or remove "
            "that folder first"
        )


def make_materials(inputs: Inputs, out: Path, tell: Callable[[str], None]) -> tuple[Path, Path]:
    """The data-bin and the file of weights of a training; what is in *out* already is not made again."""
    source, made = Path(inputs.pretrained), out / WEIGHTS / MODEL_FILE
    if source.is_file() and source.suffix == ".pt":
        weights = source
    elif (source / MODEL_FILE).is_file():
        weights = source / MODEL_FILE
    else:
        if not made.is_file():
            from ..weights.hugging_face import import_hf

            tell(f"importing {inputs.pretrained}")
            import_hf(inputs.pretrained, out / WEIGHTS, announce=tell)
        weights = made
    if inputs.data_bin is not None:
        return inputs.data_bin, weights
    data_bin = out / DATA
    if not is_data_bin(data_bin):
        tell("preparing passages")
        splits = {split: list(paths) for split, paths in (inputs.passages or {}).items()}
        for report in prepare(splits, weights.parent, data_bin, tell=tell, **inputs.preparing):
            for line in report.lines():
                tell(line)
    return data_bin, weights
