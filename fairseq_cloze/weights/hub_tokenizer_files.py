"""Hub tokenizer files: the tokenizer of a Hugging Face folder as ``tokenizer.json``, whatever files it comes in.

What transformers makes of the other files is made here, too.  SentencePiece's pieces have other numbers in each family.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, first_line
from ..files import read_regular
from ..jsontext import NotJson, parse_json
from .hub_files import CONFIG, read_json
from .plain import show
from .reading import refuse_pointer
from .sentencepiece_file import CONTROL, USER_DEFINED, SentencePieces, read_sentencepiece

TOKENIZER, VOCAB, MERGES, ADDED = "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"
WORDPIECES, SENTENCEPIECES = "vocab.txt", ("sentencepiece.bpe.model", "spiece.model")
TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"

#: All files that are read here.
TOKENIZER_FILES = (
    *(TOKENIZER, VOCAB, MERGES, ADDED, WORDPIECES, *SENTENCEPIECES),
    *(TOKENIZER_CONFIG, SPECIAL_TOKENS),
)

#: Options of BERT's tokenizer → of its normaliser, and what transformers takes where nothing is said.
_BERT_OPTIONS = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


class HubTokenizer:
    """The tokenizer of a folder.

    Raises:
        CheckpointError: there is none, or its files cannot be read or say different things
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = self._read_json(TOKENIZER_CONFIG)
        self._special_tokens = self._read_json(SPECIAL_TOKENS)
        self.model_config = read_json(folder / CONFIG) if self._has(CONFIG) else {}
        self.notes: list[str] = []
        self.where = folder / TOKENIZER  #: where the tokenizer was found, for messages
        #: as ``tokenizer.json`` has it
        self.content = self._find()

    def special(self, role: str) -> str | None:
        """The token that the folder's configuration has for a role, such as ``mask_token``."""
        for source in (self.config, self._special_tokens):
            token = source.get(role)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
        return None

    def _find(self) -> dict[str, Any]:
        family = str(self.model_config.get("model_type", ""))
        if self._has(TOKENIZER):
            content = self._read_json(TOKENIZER)
            if self._has(VOCAB) and self._has(MERGES):
                self._compare(content)
            return self._with_bert_options(content)
        if self._has(VOCAB) and self._has(MERGES):
            self.where = self.folder
            return self._byte_level()
        if self._has(WORDPIECES) and not list(self.folder.glob("*.codes")):
            self.where = self.folder / WORDPIECES
            return self._wordpiece()
        for name in SENTENCEPIECES:
            if self._has(name) and family in _FAMILIES:
                self.where = self.folder / name
                pieces = read_sentencepiece(self._read(name), str(self.where))
                return _FAMILIES[family](pieces, self.config)
        suffixes = {".json", ".txt", ".model", ".codes"}
        found = ", ".join(sorted(path.name for path in self.folder.iterdir() if path.suffix in suffixes))
        raise CheckpointError(
            f"{self.folder}: expected the files of a tokenizer ({TOKENIZER}, {VOCAB} and {MERGES}, {WORDPIECES}, or "
            f"{' or '.join(SENTENCEPIECES)}), found {found}; for a RoBERTa without them pass --gpt2-bpe and a folder "
            "with encoder.json, vocab.bpe and dict.txt"
        )

    # -- files ---------------------------------------------------------------------------------------------------------

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        refuse_pointer(path)
        try:
            return read_regular(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({first_line(error)}); copy or download it again") from error

    def _read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of a tokenizer, read strictly; an empty one if there is no such file."""
        if not self._has(name):
            return {}
        try:
            content = parse_json(self._read(name))
        except NotJson as error:
            raise CheckpointError(f"{self.folder / name}: {error}; copy or download it again") from error
        if not isinstance(content, dict):
            found = f"expected a JSON object, found a {type(content).__name__}"
            raise CheckpointError(f"{self.folder / name}: {found}; download it again")
        return content

    def _read_lines(self, name: str) -> list[str]:
        try:
            text = self._read(name).decode()
        except ValueError as error:
            path = self.folder / name
            raise CheckpointError(f"{path}: cannot be read ({first_line(error)}); copy or download it again") from error
        return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")

    # -- byte-level BPE ------------------------------------------------------------------------------------------------

    def _merges(self) -> list[list[str]]:
        lines = [line for line in self._read_lines(MERGES) if line and not line.startswith("#version")]
        for number, line in enumerate(lines, 1):
            if len(line.split(" ")) != 2 or not all(line.split(" ")):
                raise CheckpointError(
                    f"{self.folder / MERGES}: merge {number}: expected two tokens, found {show(line)}; download it "
                    "again"
                )
        return [line.split(" ") for line in lines]

    def _byte_level(self) -> dict[str, Any]:
        numbers = self._numbers(VOCAB, self._read_json(VOCAB))
        added = self._added_tokens()
        mask = self.special("mask_token") or "<mask>"
        for token in {"<s>", "<pad>", "</s>", "<unk>", mask} & numbers.keys():
            added.setdefault(token, _added(token, numbers[token], lstrip=token == mask))
        prefix = self.config.get("add_prefix_space") is True
        return {
            "added_tokens": [*added.values()],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True},
            "model": {"type": "BPE", "vocab": numbers, "merges": self._merges()},
        }

    def _numbers(self, name: str, numbers: Mapping[str, Any]) -> dict[str, int]:
        for token, number in numbers.items():
            surrogate = re.search(r"[\ud800-\udfff]", token)
            if not token or surrogate or type(number) is not int or number < 0:
                raise CheckpointError(
                    f"{self.folder / name}: expected tokens and their numbers, from 0 on, found {show(number)} for "
                    f"'{show(token)}'; copy or download it again"
                )
        return dict(numbers)

    def _added_tokens(self) -> dict[str, dict[str, Any]]:
        """What transformers adds: an older list, and its newer place."""
        added: dict[str, dict[str, Any]] = {}
        for token, number in self._numbers(ADDED, self._read_json(ADDED)).items():
            mask = token == "<mask>"
            added[token] = _added(token, number, lstrip=mask, special=mask, normalized=not mask)
        decoder = self.config.get("added_tokens_decoder")
        for number, entry in decoder.items() if isinstance(decoder, dict) else ():
            if not re.fullmatch(r"[0-9]{1,9}", number) or not isinstance(entry, dict):
                raise CheckpointError(
                    f"{self.folder / TOKENIZER_CONFIG}: expected added tokens by number, found {show(number)}; copy or "
                    "download it again"
                )
            names = ("content", "lstrip", "rstrip", "single_word", "normalized", "special")
            known = {name: entry[name] for name in names if name in entry}
            token = str(entry.get("content"))
            added[token] = {**_added(token, int(number), special=False, normalized=True), **known}
        return added

    def _compare(self, content: Mapping[str, Any]) -> None:
        """transformers reads ``tokenizer.json``; the older files must not say otherwise."""
        model = content.get("model")
        numbers = model.get("vocab") if isinstance(model, dict) else None
        entries = content.get("added_tokens")
        if not isinstance(model, dict) or not isinstance(numbers, dict):
            return  # it will be refused
        listed = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        known = {**numbers, **{str(entry.get("content")): entry.get("id") for entry in listed}}
        for token, number in self._read_json(VOCAB).items():
            if known.get(token) != number:
                raise CheckpointError(
                    f"{self.folder}: {VOCAB} and {TOKENIZER} differ: token '{show(token)}' is {show(number)} in the "
                    f"one, {show(known.get(token, 'missing'))} in the other; delete the one that is not the model's"
                )
        merges = model.get("merges")
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges or []]
        if self._merges() != pairs:
            raise CheckpointError(
                f"{self.folder}: the merges of {MERGES} and {TOKENIZER} differ; delete the one that is not the model's"
            )

    # -- WordPiece -----------------------------------------------------------------------------------------------------

    def _with_bert_options(self, content: dict[str, Any]) -> dict[str, Any]:
        """transformers takes these options of BERT's tokenizer from its configuration where it has them."""
        normalizer = content.get("normalizer")
        if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
            return content
        changed = dict(normalizer)
        for option, (name, default) in _BERT_OPTIONS.items():
            if option in self.config and self.config[option] != normalizer.get(name, default):
                changed[name] = self.config[option]
                self.notes.append(
                    f"{TOKENIZER} has {name} {show(normalizer.get(name, default))}, {TOKENIZER_CONFIG} has {option} "
                    f"{show(self.config[option])}: took the latter, as transformers does"
                )
        return {**content, "normalizer": changed}

    def _wordpiece(self) -> dict[str, Any]:
        tokens = self._read_lines(WORDPIECES)
        numbers = {token: number for number, token in enumerate(tokens)}
        if len(numbers) < len(tokens):
            twice = next(token for number, token in enumerate(tokens) if numbers[token] != number)
            path = self.folder / WORDPIECES
            raise CheckpointError(f"{path}: expected each token once, found '{show(twice)}' twice; download it again")
        if "do_lower_case" not in self.config:
            self.notes.append(
                f"no {TOKENIZER_CONFIG} says whether {WORDPIECES} has capitals; texts are put into lower case, as "
                "transformers does then"
            )
        options = {name: self.config.get(option, default) for option, (name, default) in _BERT_OPTIONS.items()}
        roles = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
        standard = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
        special = [self.special(role) or token for role, token in zip(roles, standard)]
        return {
            "added_tokens": [
                _added(token, numbers[token]) for token in special if token in numbers
            ],
            "normalizer": {"type": "BertNormalizer", "clean_text": True, **options},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": special[0], "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": numbers},
        }  # fmt: skip


def _added(token: str, number: int, **flags: bool) -> dict[str, Any]:
    """An added token as ``tokenizer.json`` has it, special unless *flags* say otherwise."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **plain, "special": True, **flags}


Vocab = list[list[Any]]


def _xlm_roberta(model: SentencePieces, config: Mapping[str, Any]) -> dict[str, Any]:
    vocab: Vocab = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    vocab += [[text, score] for text, score, _ in model.pieces[3:]] + [["<mask>", 0.0]]
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return _unigram(model, vocab, 3, special, _plain_normalizer(model), late_mask=True)


def _camembert(model: SentencePieces, config: Mapping[str, Any]) -> dict[str, Any]:
    unused = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")
    vocab: Vocab = [[unused[0], 0.0], ["<pad>", 0.0], [unused[1], 0.0], ["<unk>", 0.0], [unused[2], -100.0]]
    vocab += [[text, score] for text, score, _ in model.pieces[1:]] + [["<mask>", 0.0]]
    special = ("<s>", "<pad>", "</s>", "<unk>", *unused, "<mask>")
    return _unigram(model, vocab, 3, special, _plain_normalizer(model))


def _albert(model: SentencePieces, config: Mapping[str, Any]) -> dict[str, Any]:
    def score_of(text: str, score: float) -> float:  # numbers with a comma behind them are taken apart
        return score if len(text) < 2 or text[-1] != "," or not text[-2].isdigit() else score - 100

    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": quotes}, "content": '"'} for quotes in ("``", "''")
    ]
    if not config.get("keep_accents", False):
        steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if config.get("do_lower_case", True):
        steps.append({"type": "Lowercase"})
    steps += [*_precompiled(model), {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    vocab = [[text, score_of(text, score)] for text, score, _ in model.pieces]
    return _unigram(model, vocab, model.unknown, ("[CLS]", "<pad>", "[SEP]", "<unk>", "[MASK]"), steps)


def _precompiled(model: SentencePieces) -> list[dict[str, Any]]:
    table = base64.b64encode(model.charsmap).decode()
    return [{"type": "Precompiled", "precompiled_charsmap": table}] if table else []


def _plain_normalizer(model: SentencePieces) -> list[dict[str, Any]]:
    return [
        *_precompiled(model),
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"},
    ]


def _unigram(
    model: SentencePieces,
    vocab: Vocab,
    unknown: int,
    special: Sequence[str],
    normalizer: list[dict[str, Any]],
    late_mask: bool = False,
) -> dict[str, Any]:
    """Special tokens end with the mask, which is looked for before normalisation, or behind it if it is *late*."""
    numbers = {text: number for number, (text, _) in enumerate(vocab)}
    added = {
        text: _added(text, numbers[text], special=kind == CONTROL)
        for text, _, kind in model.pieces
        if kind in (CONTROL, USER_DEFINED) and text in numbers
    }
    added.update({text: _added(text, numbers[text]) for text in special if text in numbers})
    if special[-1] in added:
        added[special[-1]].update(lstrip=True, normalized=late_mask)
    return {
        "added_tokens": [*added.values()],
        "normalizer": {"type": "Sequence", "normalizers": normalizer},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": unknown, "byte_fallback": False, "vocab": vocab},
    }


#: What ``config.json`` calls the families whose SentencePiece files are read.
_FAMILIES = {"xlm-roberta": _xlm_roberta, "camembert": _camembert, "albert": _albert}


def check_numbers(content: Mapping[str, Any], tokens: Mapping[str, int], where: Path) -> None:
    """``CheckpointError`` where the library, and so transformers, numbers added tokens otherwise than the file."""
    from tokenizers import Tokenizer

    quiet = {**content, **dict.fromkeys(("post_processor", "decoder", "padding", "truncation"))}
    try:
        found = Tokenizer.from_str(json.dumps({"version": "1.0", **quiet})).get_vocab(True)
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{where}: cannot be used ({first_line(error)}); copy or download it again") from error
    if other := next((token for token, number in found.items() if tokens.get(token) != number), None):
        raise CheckpointError(
            f"{where}: token '{show(other)}' has number {show(tokens.get(other))} there, {found[other]} where the "
            "library reads it; take the tokenizer files that came with the weights"
        )
