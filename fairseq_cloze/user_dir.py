"""User dir: how fairseq finds this package, and the moment at which it registers."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

_PACKAGE = __package__ or ""


def register() -> None:
    """Register task, criterion, model and optimizer with fairseq; once per process, whatever name it was imported by.

    Raises:
        SetupError: fairseq, torch or apex do not fit together
    """
    from .plugin.registration import register_all

    register_all()


def register_with_fairseq() -> None:
    """Register now where fairseq is imported, else as soon as it is."""
    if "fairseq" in sys.modules:
        register()
    elif not any(isinstance(finder, _AfterFairseq) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterFairseq())


class _AfterFairseq:
    """Finds fairseq as all others do, once, and registers when it is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "fairseq":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: Any) -> None:
                run(module)
                register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


class UserDirs(list[str]):
    """``__path__`` of this package, which fairseq searches for ``--user-dir``.

    Where the package is already imported, fairseq asks for the path here and then imports nothing: this is the moment
    to register, and the answer is yes for any copy of the package.
    """

    def __contains__(self, folder: object) -> bool:
        path = Path(str(folder))
        if not (path / "plugin" / "registration.py").is_file() or path.name != _PACKAGE:
            return super().__contains__(folder)
        if not super().__contains__(folder):
            import logging

            logging.getLogger(_PACKAGE).warning(
                "--user-dir %s: already imported from %s, which is used", folder, self[0]
            )
        register()
        return True
