"""``fairseq-cloze examples``"""

import os
from pathlib import Path

import click

from ..errors import ClozeError, SetupError

_PACKAGE = Path(__file__).resolve().parent.parent

#: Where the examples are: of a wheel inside the package, of a clone beside it.
_PLACES = (_PACKAGE / "examples", _PACKAGE.parent / "examples")

_MODEL = Path("pretrained", "mini")


def copy_examples(out: str | os.PathLike[str]) -> None:
    """Copy the examples that come with the package into a new folder, whole or not at all.

    Raises:
        ClozeError: *out* is there already or cannot be written, or this copy of the package has no examples
    """
    import shutil

    from ..files import cannot_write, unused

    out = Path(out)
    if os.path.lexists(out):
        raise ClozeError(f"{out}: is there already; choose another --out, or remove it first")
    found = next((place for place in _PLACES if (place / _MODEL / "model.pt").is_file()), None)
    if found is None:
        problem = "examples are in the wheel and in the repository, not beside this copy of the package"
        raise SetupError(f"{_PACKAGE}: {problem}; install fairseq-cloze with pip, or take examples/ of the repository")
    temporary = unused(out.parent)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(found, temporary, ignore=shutil.ignore_patterns("__pycache__"))
        temporary.rename(out)
    except OSError as error:  # shutil.Error, which is one, has no strerror but a list of what failed
        raise cannot_write(out, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@click.command("examples")
@click.option("--out", default="examples", show_default=True, help="Folder to make.")
def command(out: str) -> None:
    """Copy what there is to try: a small model, passages, exam sheets."""
    copy_examples(out)
    click.echo(f"wrote {out}; try: fairseq-cloze predict {out}/{_MODEL} {out}/passages/test --out answers.json")
