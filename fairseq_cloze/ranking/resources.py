"""Resources: what scoring may use."""

from dataclasses import dataclass

from ..errors import ClozeError, first_line


@dataclass(frozen=True)
class Resources:
    """What scoring may use."""

    device: str | None = None  #: ``cpu``, ``cuda``, ``cuda:1``, ...; CUDA where there is one if ``None``
    batch_size: int | None = None  #: most items in a batch: windows of passages in view ``joint``, else blanks
    max_tokens: int | None = None  #: most tokens in a batch, padding and every candidate counted
    fp16: bool = False  #: compute in half precision
    bf16: bool = False  #: compute in bfloat16 where that is safe
    int8: bool = False  #: multiply the encoder's weights as 8-bit integers, on a CPU that is fast at it


DEFAULT_RESOURCES = Resources()


def check_device(name: str) -> None:
    """Make sure, before long work, that there is a device of that name; none of a GPU's memory is taken.

    Raises:
        ClozeError: there is none
    """
    import torch

    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.empty(1, device=device)
        elif (device.index or 0) >= (count := torch.cuda.device_count()):
            raise RuntimeError(f"there are {count} CUDA devices")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise cannot_use(name, error) from error


def cannot_use(name: str | None, error: Exception) -> ClozeError:
    """The error of a device that is not there, or cannot be used."""
    return ClozeError(f"device {name} cannot be used ({first_line(error)}); take cpu, cuda, or cuda:N")
