"""Hub tokenizer: the vocabulary of a Hugging Face folder, how its rows are sorted, and the files of one to write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.blanks import ROLES
from ..data.tokenizer_file import TokenizerFile
from ..data.vocabulary import Vocabulary
from ..errors import CheckpointError, ClozeError
from ..files import PathLike
from .families import Family
from .hub_tokenizer_files import MERGES, TOKENIZER, TOKENIZER_CONFIG, VOCAB, HubTokenizer, check_numbers

#: Role of a special token → what a configuration calls it, and its usual names.
_SPECIAL = {
    "begin": (("cls_token", "bos_token"), ("<s>", "[CLS]")),
    "pad": (("pad_token",), ("<pad>", "[PAD]")),
    "end": (("sep_token", "eos_token"), ("</s>", "[SEP]")),
    "unknown": (("unk_token",), ("<unk>", "[UNK]")),
    "mask": (("mask_token",), ("<mask>", "[MASK]")),
}


def read_tokenizer(
    folder: Path, gpt2_bpe: PathLike | None, rows: int
) -> tuple[Vocabulary, list[int] | None, list[str]]:
    """The vocabulary, for each of its rows the row of the source (``None``: the same), and notes.

    Raises:
        CheckpointError: it is of a kind that cannot be used, damaged, or not of *rows*; says what
    """
    if gpt2_bpe is not None:
        vocabulary = Vocabulary.load(gpt2_bpe)
        own = [name for name in (VOCAB, TOKENIZER) if (folder / name).is_file()]
        if own:
            raise CheckpointError(
                f"{folder}: has tokenizer files of its own ({', '.join(own)}), which belong to the weights; "
                "leave --gpt2-bpe out"
            )
        if len(vocabulary) != rows:
            raise CheckpointError(
                f"{gpt2_bpe}: expected a dictionary of {rows:,} rows, as the embedding of {folder} has, "
                f"found {len(vocabulary):,}; give the files that belong to the model"
            )
        return vocabulary, None, []
    found = HubTokenizer(folder)
    try:
        file = TokenizerFile(found.content, str(found.where))
        last = max(file.tokens.values())
        if last >= rows:
            problem = f"expected {rows:,} tokens at most, as the embedding has rows, found number {last:,}"
            raise CheckpointError(f"{folder}: {problem}; files of the tokenizer and weights are of two models")
        special = _find_special(found, file.tokens)
        check_numbers(found.content, file.tokens, found.where)
        vocabulary = Vocabulary.of(found.content, rows, special, str(folder))
    except CheckpointError:
        raise
    except ClozeError as error:
        raise CheckpointError(str(error)) from error
    order = vocabulary.order
    if vocabulary.is_fairseqs:  # then it is carried in the order of its rows, as fairseq's own files have it
        known = {left + right for left, right in vocabulary.merges}
        token_at = {number: token for token, number in file.tokens.items()}
        others = order[4:-1]
        tokens = [_row_name(token_at.get(number), number, known, file.tokens) for number in others]
        vocabulary = Vocabulary.build(tokens, vocabulary.merges, str(folder))
    return vocabulary, order, found.notes


def _find_special(found: HubTokenizer, numbers: Mapping[str, int]) -> dict[str, str]:
    """The token of each role."""
    special = {}
    for role in ROLES:
        fields, usual = _SPECIAL[role]
        named = [token for token in map(found.special, fields) if token is not None]
        token = next((token for token in (*named, *usual) if token in numbers), None)
        if token is None:
            names = named[:1] or usual
            raise CheckpointError(
                f"{found.folder}: expected the token {' or '.join(names)} in the tokenizer, found none; take the "
                "tokenizer files that came with the weights"
            )
        special[role] = token
    for role, field in (("pad", "pad_token_id"), ("mask", "mask_token_id")):
        number = found.model_config.get(field)
        if number is not None and number != numbers[special[role]]:
            raise CheckpointError(
                f"{found.folder}: expected {special[role]} to be token {number}, as {field} of config.json says, found "
                f"{numbers[special[role]]}; files of the tokenizer and weights are of two models"
            )
    return special


def _row_name(token: str | None, row: int, known: set[str], numbers: Mapping[str, int]) -> str:
    """What the dictionary calls a row: its token, unless that is no word of its own there."""
    if token is not None and (token in known or len(token) == 1 or re.fullmatch(r"(?!\d+$)\S+", token)):
        return token
    name = f"madeupword{row:04d}"
    while name in numbers:
        name += "_"
    return name


def tokenizer_files(vocabulary: Vocabulary, family: Family, longest: int) -> dict[str, str]:
    """What transformers reads a tokenizer from, in the numbers of :attr:`Vocabulary.order`: contents by name.

    Args:
        vocabulary: of a checkpoint
        family: of its weights
        longest: most tokens of a text
    """
    config: dict[str, Any] = {"tokenizer_class": "RobertaTokenizer", "model_max_length": longest}
    if vocabulary.is_fairseqs:
        merges = "".join(["#version: 0.2\n", *(f"{left} {right}\n" for left, right in vocabulary.merges)])
        files = {VOCAB: json.dumps(vocabulary.token_rows(), ensure_ascii=False), MERGES: merges}
    else:
        content = json.loads(vocabulary.files[TOKENIZER])
        if content.get("post_processor") is None:
            content["post_processor"] = _around(vocabulary, twice=family.behind_padding)
        files = {TOKENIZER: json.dumps({"version": "1.0", **content}, ensure_ascii=False)}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # takes the file as it is
        both = "bos" in family.special and "cls" not in family.special  # then tokenizers have both names
        for role, (fields, _) in _SPECIAL.items():
            config |= dict.fromkeys(fields if both else fields[:1], vocabulary.special[role])
        if not family.token_types or family.type_rows == 1:
            config["model_input_names"] = ["input_ids", "attention_mask"]
        before = content["pre_tokenizer"]
        if before["type"] == "ByteLevel":  # where the configuration is silent, transformers would take "no"
            config["add_prefix_space"] = before.get("add_prefix_space", True)
    return {**files, TOKENIZER_CONFIG: json.dumps(config, indent=1) + "\n"}


def _around(vocabulary: Vocabulary, twice: bool) -> dict[str, Any]:
    """What stands around a text, and around two, as ``tokenizer.json`` has it; two ends between them if *twice*."""
    names = {role: vocabulary.special[role] for role in ("begin", "end")}
    begin, end = ({"SpecialToken": {"id": names[role], "type_id": 0}} for role in names)
    second = int(not twice)
    last = {"SpecialToken": {"id": names["end"], "type_id": second}}
    one, other = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", second)))
    tokens = {
        token: {"id": token, "ids": [vocabulary.file.tokens[token]], "tokens": [token]} for token in names.values()
    }
    return {
        "type": "TemplateProcessing",
        "single": [begin, one, end],
        "pair": [begin, one, end, *([end] if twice else []), other, last],
        "special_tokens": tokens,
    }
