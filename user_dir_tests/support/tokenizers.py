"""Small tokenizers of every kind, learned from the example passages and saved by transformers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fairseq_cloze.data.prepare import passage_texts

from .commands import PASSAGES

#: The same few words in eight scripts, with what tokenizers treat by itself.
SCRIPTS = (
    "The old ferry left at 7.30 a.m., didn't it? \u201cYes,\u201d she said \u2013 and laughed\u2026",
    "Le café était fermé ; où aller ? « Chez l’oncle François », dit-elle : c’est à 200 €.",
    "Старый паром ушёл в семь часов утра, не так ли? — Да, — сказала она.",
    "Το παλιό πλοίο έφυγε στις επτά το πρωί, σωστά; «Ναι», είπε εκείνη.",
    "老渡轮早上七点离开了，是吗？“是的，”她笑着说。ＡＢＣ１２３",
    "古いフェリーは朝７時に出ました。「はい」と彼女は言った。ｶﾀｶﾅ",
    "오래된 배는 아침 일곱 시에 떠났지요? \u201c네,\u201d 그녀가 말했다.",
    "غادرت العبّارة القديمة في السابعة صباحًا، أليس كذلك؟ «نعم»، قالت.",
    "पुरानी नाव सुबह सात बजे चली गई, है ना? “हाँ,” उसने कहा। \U0001f600 e\u0301 ﬁ ½",
)

ROWS = 700

Save = Callable[[Path], None]


@cache
def texts() -> list[str]:
    """What the tokenizers are learned from."""
    return [*passage_texts([PASSAGES / "train"]), *SCRIPTS * 3]


def save_tokenizer(kind: str, folder: Path) -> Any:
    """Write the files of a tokenizer, and ``config.json`` with the type of its model; return transformers' own."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _MAKERS[kind](folder)
    tokenizer.save_pretrained(folder)
    model_type = kind.partition("-")[0] if kind.startswith(("bert", "modernbert")) else kind
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return tokenizer


def _class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _wordpiece(lower: bool) -> list[str]:
    from tokenizers import BertWordPieceTokenizer

    trained = BertWordPieceTokenizer(lowercase=lower)
    trained.train_from_iterator(texts(), vocab_size=ROWS, show_progress=False)
    vocab: dict[str, int] = trained.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def _bert(folder: Path, lower: bool, name: str = "BertTokenizerFast") -> Any:
    (folder / "vocab.txt").write_text("\n".join(_wordpiece(lower)) + "\n", encoding="utf-8")
    return _class(name)(vocab_file=str(folder / "vocab.txt"), do_lower_case=lower)


def sentencepiece_model(path: Path, **options: Any) -> Path:
    """Learn a model of SentencePiece."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts()),
        model_writer=model,
        **{"vocab_size": ROWS, "character_coverage": 0.995, "minloglevel": 2, "num_threads": 1, **options},
    )
    path.write_bytes(model.getvalue())
    return path


def _xlm_roberta(folder: Path) -> Any:
    path = sentencepiece_model(folder / "sentencepiece.bpe.model", normalization_rule_name="nmt_nfkc")
    return _class("XLMRobertaTokenizerFast")(vocab_file=str(path))


def _camembert(folder: Path) -> Any:
    path = sentencepiece_model(folder / "sentencepiece.bpe.model", normalization_rule_name="nmt_nfkc")
    return _class("CamembertTokenizerFast")(vocab_file=str(path))


ALBERT_SPECIAL = {
    **{"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1},
    "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
}


def _albert(folder: Path) -> Any:
    path = sentencepiece_model(folder / "spiece.model", normalization_rule_name="nmt_nfkc", **ALBERT_SPECIAL)
    return _class("AlbertTokenizerFast")(vocab_file=str(path))


def _byte_level(special: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=special,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def _roberta(folder: Path) -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    content = json.loads(_byte_level(special).to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return _class("RobertaTokenizerFast")(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"))


def _modernbert(folder: Path) -> Any:
    """As ModernBERT's: NFC, runs of spaces as added tokens, special ones behind the words, spare rows."""
    from tokenizers import AddedToken, normalizers, processors

    tokenizer = _byte_level([])
    tokenizer.normalizer = normalizers.NFC()
    runs = [AddedToken(" " * length, normalized=True, special=False) for length in range(12, 1, -1)]
    tokenizer.add_tokens([AddedToken("<|padding|>", special=True), AddedToken("<|endoftext|>", special=True), *runs])
    tokenizer.add_tokens([AddedToken("|||EMAIL_ADDRESS|||", normalized=True, special=False)])
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    mask = AddedToken("[MASK]", lstrip=True, special=True, normalized=False)
    options = {"mask_token": mask, **names, "model_input_names": ["input_ids", "attention_mask"]}
    made = _class("PreTrainedTokenizerFast")(tokenizer_object=tokenizer, **options)
    around = [(token, made.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    return made


_MAKERS: dict[str, Callable[[Path], Any]] = {
    "roberta": _roberta,
    "bert-cased": lambda folder: _bert(folder, False),
    "bert-uncased": lambda folder: _bert(folder, True),
    "distilbert": lambda folder: _bert(folder, True, "DistilBertTokenizerFast"),
    "electra": lambda folder: _bert(folder, True, "ElectraTokenizerFast"),
    "xlm-roberta": _xlm_roberta,
    "camembert": _camembert,
    "albert": _albert,
    "modernbert": _modernbert,
}

KINDS = tuple(_MAKERS)
