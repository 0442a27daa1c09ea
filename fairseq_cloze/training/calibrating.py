"""Calibrating: the weights that a training starts from, fitted to the task before it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from ..errors import ClozeError
from ..ranking.calibration import SETTINGS
from ..runs.names import LAST_CHECKPOINT
from .launch import own_command
from .plan import OTHER_STARTS, Device, Given

CALIBRATED = "calibrated.pt"

#: What calibrated weights are made for; whoever gives a contrast wants weights that need one.
_FITTED_TO = {"--view": SETTINGS.view, "--scorer": SETTINGS.scorer, "--contrast": ""}
_NOT = "the LM head is not calibrated: "


def calibrated(
    data_bin: Path, weights: Path, folder: Path, given: Given, device: Device, say: Callable[[str], None]
) -> Path | None:
    """Calibrated weights in *folder*, made unless they are there; ``None`` where the training takes the others.

    That is where it has another view or scorer or a contrast of its own, and where it goes on from a checkpoint that
    was made without.

    Raises:
        ClozeError: weights and data cannot be used, or do not belong together
    """
    path = folder / CALIBRATED
    if given.any_of(OTHER_STARTS):
        return None
    for name, own in _FITTED_TO.items():
        if (value := given.text(name, own)) != own:
            say(f"{_NOT}{name} {value} was given")
            return None
    if path.exists():
        return path
    if any(folder.rglob(LAST_CHECKPOINT)):
        say(f"{_NOT}this training began without")
        return None
    say("calibrating the LM head (docs/training.md#calibration)")
    _run(data_bin, weights, path, device, say)
    return path


def _run(data_bin: Path, weights: Path, path: Path, device: Device, say: Callable[[str], None]) -> None:
    """In a process of its own on a GPU, of whose memory this one would keep some otherwise."""
    if not device.gpus:
        from ..ranking.calibration import calibrate
        from ..ranking.resources import Resources

        for line in calibrate(weights, data_bin, path, resources=Resources(device="cpu")).lines():
            say(line)
        return
    command, environ = own_command("calibrate", str(weights), str(data_bin), "--out", str(path))
    ran = subprocess.run(command, env=environ, text=True, capture_output=True)
    if ran.returncode:
        raise ClozeError(f"calibrating failed: {ran.stderr.strip().removeprefix('Error: ')}")
    for line in ran.stdout.splitlines():
        say(line)
