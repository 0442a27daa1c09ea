"""Resources: what a watch may use to score, next to a training that was there first."""

import os
import socket
import sys
from dataclasses import replace

from ..files import PathLike
from ..processes import cores
from ..ranking.resources import Resources, check_device
from ..runs.lock import RunState, run_record, run_state


def prepare_torch(resources: Resources, save_dir: PathLike) -> tuple[Resources, str]:
    """Load torch; leave CUDA, and half of the cores, alone where the training is to have them.

    Returns:
        the same with a device, and what scoring uses, in words

    Raises:
        ClozeError: there is no such device
    """
    device, why = choose_device(resources.device, save_dir)
    if device == "cpu" and "torch" not in sys.modules:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device != "cpu":
        check_device(device)
    if device != "cpu":
        return replace(resources, device=device), device
    if "OMP_NUM_THREADS" not in os.environ and run_state(save_dir) is not RunState.ENDED:
        torch.set_num_threads(max(1, cores() // 2))
    return replace(resources, device=device), f"cpu{why}, threads: {torch.get_num_threads()}"


def choose_device(device: str | None, save_dir: PathLike) -> tuple[str | None, str]:
    """The device to score on, and why, in words: what was asked for, or the CPU, as the run's GPU is its own.

    Where the run has ended or trains on another machine it is ``None``, which is CUDA where there is one.
    """
    state, host = run_state(save_dir), run_record(save_dir).get("host")
    if device or state is RunState.ENDED or (state is RunState.RUNNING and host != socket.gethostname()):
        return device, ""
    return "cpu", " (the GPU is left to the run, --device cuda takes it)"
