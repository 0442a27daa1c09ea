"""Hub proof: an imported model computes what transformers computes, seen on a fixed text."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.vocabulary import BOS, EOS
from ..errors import CheckpointError, first_line
from ..model.masked_lm import MaskedLM
from .checkpoint import Checkpoint
from .families import FAMILIES
from .hub_tokenizer_files import MERGES, TOKENIZER, VOCAB

#: Words, numbers, capitals, accents, punctuation, spaces, another alphabet.
TEXT = (
    " She'd bought 1,250 apples in 1998 -- \u201ctoo many\u201d, said Mr. O\u2019Neill of the caf\u00e9 (na\u00efve as "
    "ever).  It wasn't, 3.5 kg or 42%: \u041f\u0440\u0438\u0432\u0435\u0442 \u4f60\u597d!"
)

#: Largest difference of a logit, in float32.
TOLERANCE = 1e-4


def prove_import(
    folder: Path,
    checkpoint: Checkpoint,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    order: list[int] | None,
) -> str:
    """Compare token ids with those of the folder's own files, and logits with transformers where it is installed.

    Args:
        folder: of the source
        checkpoint: what was made of it
        weights, config: the source's own
        order: for each row of the dictionary that of the source; ``None`` where they are the same

    Returns:
        a line with the figures

    Raises:
        CheckpointError: something differs; says what
    """
    vocabulary = checkpoint.require_vocabulary()
    own = vocabulary.encode([TEXT])[0].tolist()
    rows = torch.arange(len(vocabulary)) if order is None else torch.tensor(order)
    found = _token_ids(folder)
    tokens = "no tokenizer files to compare token ids with"
    if found is not None:
        ids = rows[own].tolist()
        if ids != found:
            number = next(
                (at for at, pair in enumerate(zip(ids, found)) if pair[0] != pair[1]), min(len(ids), len(found))
            )
            raise CheckpointError(
                f"{folder}: the import would encode text otherwise than its tokenizer: token {number + 1} of a fixed "
                f"text is {ids[number : number + 1]} here, {found[number : number + 1]} there; it cannot be imported"
            )
        tokens = f"{len(own)} token ids as in its tokenizer"
    if not _has_transformers():
        return f"{tokens}; logits were not compared, as transformers is not installed"
    own = own[: checkpoint.architecture.max_positions - 2]
    masked = [BOS, *own, EOS]
    masked[len(masked) // 2] = vocabulary.mask
    batch = torch.tensor([masked])
    model = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights)
    with torch.inference_mode():
        ours = model(batch)[0]
    try:
        theirs, version = _logits(weights, config, rows[batch])
    except Exception as error:  # whatever transformers raises
        return f"{tokens}; logits were not compared, transformers fails ({first_line(error)[:200]})"
    difference = float((ours - theirs[..., rows]).abs().max())
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"{folder}: the import would compute otherwise than transformers {version}: expected logits within "
            f"{TOLERANCE:g} on a fixed text, found {difference:.1e}; it cannot be imported"
        )
    return f"{tokens}, logits as in transformers {version} (largest difference {difference:.0e})"


def _token_ids(folder: Path) -> list[int] | None:
    """The text as transformers encodes it with the folder's own files, or their library where that is not installed."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer

    if _has_transformers():
        only = {"local_files_only": True, "trust_remote_code": False}  # it would ask whether to run code of the folder
        try:
            own = _transformers().AutoTokenizer.from_pretrained(str(folder), **only)
            return list(own(TEXT, add_special_tokens=False)["input_ids"])
        except Exception:  # whatever it raises for files that it wants and does not find
            pass
    if (folder / TOKENIZER).is_file():
        tokenizer: Any = Tokenizer.from_file(str(folder / TOKENIZER))
    elif (folder / VOCAB).is_file():
        tokenizer = ByteLevelBPETokenizer.from_file(str(folder / VOCAB), str(folder / MERGES))
    else:
        return None
    ids: list[int] = tokenizer.encode(TEXT, add_special_tokens=False).ids
    return ids


def _has_transformers() -> bool:
    return importlib.util.find_spec("transformers") is not None


def _transformers() -> Any:
    import transformers as package

    transformers: Any = package
    transformers.logging.set_verbosity_error()
    return transformers


def _logits(weights: Mapping[str, Tensor], config: Mapping[str, Any], tokens: Tensor) -> tuple[Tensor, str]:
    """Logits of transformers for *tokens* of the source, and its version."""
    transformers = _transformers()
    masked_lm = getattr(transformers, FAMILIES[config["model_type"]].masked_lm)
    plain = {"torch_dtype": "float32", "dtype": "float32", "reference_compile": False}
    model = masked_lm(masked_lm.config_class.from_dict({**config, **plain}))
    model.load_state_dict(dict(weights), strict=False)
    model.tie_weights()
    with torch.inference_mode():
        return model.eval()(tokens).logits, transformers.__version__
