"""Sums: what logging outputs add up to, read from the device while it computes.

fairseq asks for them when it has queued the optimizer's step.  Reading then would wait for that step, and the device
for what comes next.  But it was waited for before, to look at the gradients: what an update has counted is there.  So
that is read beside the step, in another stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ranking import metrics

#: Name of the tensor in logging outputs: the sum of the losses, then the counts that depend on scores,
#: ``float64 (5,)``, which holds them exactly.
SCORED = "scored"
_NAMES = ("loss", *metrics.SCORED)


def plain(logs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of logging outputs as numbers, under their names; waits for the device, once, if they are there."""
    # One tensor of all that is on a device, as each read would be a wait.
    tensors = [value.reshape(-1) for log in logs for value in log.values() if isinstance(value, Tensor)]
    numbers = iter(torch.cat([each.double() for each in tensors]).tolist() if tensors else ())
    total: dict[str, Any] = {}
    for log in logs:
        read = {key: _read(value, numbers) for key, value in log.items()}
        read = {**dict(zip(_NAMES, read.pop(SCORED, ()))), **read}
        total.update({key: total.get(key, 0) + value for key, value in read.items()})
    return total


def _read(value: Any, numbers: Iterator[float]) -> Any:
    if not isinstance(value, Tensor):
        return value
    read = [next(numbers) for _ in range(value.numel())]
    return read if value.dim() else read[0]


class Sums:
    """Reads the sums of an update."""

    def __init__(self) -> None:
        self._there: torch.cuda.Event | None = None  # all of the update but the optimizer's step is computed
        self._stream: torch.cuda.Stream | None = None

    def mark(self) -> None:
        """Say that the update's sums were asked of the device by now, and the optimizer's step was not."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._there = torch.cuda.current_stream().record_event()

    def of(self, logs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As :func:`plain`, without waiting for what the device was asked since :meth:`mark`."""
        there, self._there = self._there, None
        if there is None:
            return plain(logs)
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_event(there)
        with torch.cuda.stream(self._stream):
            return plain(logs)
