"""Finding: weights by path or by name, wherever they come from."""

from pathlib import Path

from ..errors import CheckpointError
from ..files import PathLike
from ..runs.names import BEST_CHECKPOINT, LAST_CHECKPOINT
from .carried import MODEL_FILE
from .checkpoint import Checkpoint
from .hub_files import CONFIG
from .hugging_face import read_hf

#: What is taken of a folder: pretrained weights, else the best checkpoint of a training, else its last one.
CHECKPOINTS = (MODEL_FILE, BEST_CHECKPOINT, LAST_CHECKPOINT)


def open_checkpoint(source: PathLike, gpt2_bpe: PathLike | None = None) -> Checkpoint:
    """Read weights in place.

    Args:
        source: a checkpoint of fairseq; a folder with one of :data:`CHECKPOINTS`; a Hugging Face folder; or the name of
            a model on its hub
        gpt2_bpe: see :func:`fairseq_cloze.weights.hugging_face.read_hf`

    Raises:
        CheckpointError: there is nothing of that kind, or it cannot be used
    """
    path = Path(source)
    if path.is_dir():
        for name in CHECKPOINTS:
            if (path / name).is_file():
                return Checkpoint.read(path / name)
        if (path / CONFIG).is_file():
            return read_hf(path, gpt2_bpe)
        raise CheckpointError(
            f"{path}: expected {', '.join(CHECKPOINTS)} or a Hugging Face model ({CONFIG}) in this folder, found "
            "none of them"
        )
    parts = str(source).split("/")  # of a name on the hub, such as roberta-base or owner/model
    names_model = len(parts) <= 2 and all(part.strip(".") for part in parts)
    if path.exists() or not names_model or path.suffix in (".pt", ".bin", ".pth"):
        return Checkpoint.read(path)
    return read_hf(source, gpt2_bpe)
