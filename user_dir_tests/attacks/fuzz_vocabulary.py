"""Files of a vocabulary (``NAME``, NUL, bytes): one that encodes and decodes its text, or an error with its file."""

from functools import cache

from fairseq_cloze.data.bpe import byte_characters
from fairseq_cloze.data.fairseq_files import FAIRSEQ_FILES
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import ClozeError


@cache
def _files() -> dict[str, bytes]:
    tokens = [*byte_characters(), "he", "Ġhe", "<|endoftext|>"]
    return Vocabulary.build(tokens, [("h", "e"), ("Ġ", "he")], "tiny").fairseq_files()


def seeds() -> list[bytes]:
    return [name.encode() + b"\0" + _files()[name] for name in FAIRSEQ_FILES]


def attack(data: bytes) -> None:
    name, _, content = data.partition(b"\0")
    file = name.decode("latin1")
    if file not in FAIRSEQ_FILES:
        file, content = FAIRSEQ_FILES[len(data) % 3], data
    try:
        vocabulary = Vocabulary({**_files(), file: content}, "x")
        rows = vocabulary.encode(["Then he ate.", " /", "", "\u200bü\0"])
        assert all(((0 <= each) & (each < len(vocabulary))).all() for each in rows)
        vocabulary.decode(rows[0].tolist()).encode()
        assert len(vocabulary.dictionary_digest) == len(vocabulary.tokenizer_digest) == 64
        vocabulary.token_rows()
    except ClozeError as error:
        assert any(name in str(error) for name in FAIRSEQ_FILES)
