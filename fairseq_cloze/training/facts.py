"""Facts: what a plan has to know of data, weights and device."""

import json
import subprocess
import sys
from pathlib import Path

from ..data.databin import DataBin
from ..errors import ClozeError
from ..model.names import LM_HEAD
from ..views.batches import cut_batches, shuffled
from ..views.making import make_view
from ..views.settings import Settings
from ..weights.checkpoint import Checkpoint
from .plan import Device, Facts, Given

_TIED = f"{LM_HEAD}weight"  # the embeddings once more

# In a process of its own: who has once asked a GPU what it is holds some of its memory from then on.
_ASK = """
import json, torch
count = torch.cuda.device_count()
print(json.dumps([torch.cuda.get_device_name(), count, torch.cuda.get_device_capability() >= (8, 0)] if count else []))
"""


def find_device(given: Given) -> Device:
    """What ``fairseq-train`` will run on."""
    import torch

    from ..model.cpu import BFLOAT16, has_any

    cpu = Device(has_bfloat16=has_any(BFLOAT16))
    if "--cpu" in given or not torch.cuda.device_count():
        return cpu
    ran = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True)
    answer = json.loads(ran.stdout) if not ran.returncode else []
    return Device(*answer) if answer else cpu


def gather_facts(data_bin: Path, weights: Path, given: Given) -> Facts:
    """Look at data and weights.

    Raises:
        ClozeError: they cannot be used
    """
    data, checkpoint = DataBin(data_bin), Checkpoint.read(weights)
    checkpoint.require_sound()
    if "train" not in data.splits:
        found = ", ".join(sorted(data.splits))
        raise ClozeError(f"{data_bin}: expected a split 'train', found {found}; prepare it with passages to train on")
    settings = Settings(
        view=given.text("--view", Settings.view),
        scorer=given.text("--scorer", Settings.scorer),
        other_blanks=given.text("--other-blanks", Settings.other_blanks),
    )
    view = make_view(settings, data.open("train"), data.vocabulary, checkpoint.architecture.max_positions)
    order = shuffled(view, 1, 1)
    return Facts(
        parameters=sum(weight.numel() for name, weight in checkpoint.weights.items() if name != _TIED),
        family=checkpoint.architecture.family,
        tokens=int(view.cost.sum()),
        largest=int(view.cost.max()) if len(view) else 1,
        batches=lambda max_tokens, max_items: len(cut_batches(view, order, max_tokens, max_items)),
        has_valid=is_labelled(data, "valid"),
    )


def is_labelled(data: DataBin, split: str) -> bool:
    """Whether a data-bin has answers in a split."""
    return bool(data.splits.get(split, {}).get("labelled_blanks"))
