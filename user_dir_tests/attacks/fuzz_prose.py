"""Prose of generate: any file gives paragraphs and excerpts that hold its text, or an error with its line."""

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.generation.prose import MAX_WORDS, MIN_WORDS, Cutter, read_chunks

from .scratch import written

PROSE = b"It was late when the old man came back to the house, and there was nobody to let him in. "


def seeds() -> list[bytes]:
    return [
        PROSE * 12 + b"\n\n" + PROSE * 3,
        PROSE.replace(b" ", b"\n", 9) * 10,
        "“Où est-il?” – ‘Nobody knows…’ Mr. Smith said;\tno.\r\n\r\n1. a list\n- of things\n".encode(),
        b"\xef\xbb\xbfCHAPTER ONE\n\n" + PROSE * 20,
    ]


def attack(data: bytes) -> None:
    file = written(data)
    ids = set()
    try:
        for chunk in read_chunks([(file, "t")]):
            for excerpt in Cutter().cut(chunk):
                assert MIN_WORDS <= len(excerpt.text.split()) <= MAX_WORDS
                assert excerpt.id not in ids
                ids.add(excerpt.id)
    except ClozeError as error:
        assert "line" in str(error)
