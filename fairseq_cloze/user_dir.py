"""User dir: how fairseq finds this package, and the moment at which it registers."""

import logging
from pathlib import Path

_PACKAGE = __package__ or ""


def register() -> None:
    """Register task, criterion, model and optimizer with fairseq; once per process, whatever name it was imported by.

    Raises:
        SetupError: fairseq, torch or apex do not fit together
    """
    from .plugin.registration import register_all

    register_all()


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
            logging.getLogger(_PACKAGE).warning(
                "--user-dir %s: already imported from %s, which is used", folder, self[0]
            )
        register()
        return True
