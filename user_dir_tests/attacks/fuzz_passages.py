"""Passages, as a document and as a line of JSONL: a checked passage that encodes, or an error with its place."""

import json

from fairseq_cloze.errors import PassageError
from fairseq_cloze.passages.choices import LANGUAGES
from fairseq_cloze.passages.markers import compile_marker
from fairseq_cloze.passages.passage import UNLABELLED
from fairseq_cloze.passages.reading import Numbering, Record, parse_record
from fairseq_cloze.passages.text import BLANK, normalise, opens_sentence, sentence_breaks

MARKER = compile_marker(r"_+\(\d+\)_+|\[MASK\]")
PLAIN = {
    "article": "She _ home, and ___2___ slept .",
    "options": [["went", "go"], ["she", "/", ""]],
    "answers": ["A", 1],
}


def seeds() -> list[bytes]:
    return [
        json.dumps(PLAIN).encode(),
        json.dumps({**PLAIN, "answers": [0, 2], "id": "é/1", "ranks": [[1, 0.5], [-1, 1e2, 3]]}, indent=1).encode(),
        json.dumps({**PLAIN, "id": 12345678901234567890, "article": "\ud83d\ude00 _\n\u200b_ \t."}).encode(),
        b'\xef\xbb\xbf{"article": "[MASK] {{gap}}", "options": [["a", "b"]], "answers": []}\r\n',
        json.dumps({**PLAIN, "answers": [1, 3]}).encode() + b",\r\n",
        json.dumps(
            {**PLAIN, "article": "\u00ab\u00a0_\u00a0!\u00a0\u00bb \ufdd0 \u4ed6 ___(3)___ \u4e86\u3002[MASK]"}
        ).encode(),
    ]


def attack(data: bytes) -> None:
    for is_line, marker in ((False, None), (True, None), (False, MARKER)):
        record, numbering = Record("x", "x", data, is_line=is_line), Numbering()
        try:
            passage = parse_record(record, marker)
        except PassageError as error:
            assert "\n" not in error.problem.replace("\\n", "") or b"\n" in data
            str(error).encode()
            numbering.note(record, error)
            continue
        numbering.note(record, passage)
        for text in (passage.id, passage.article, *(choice for choices in passage.candidates for choice in choices)):
            text.encode()
        blanks = len(passage.candidates)
        assert blanks == len(passage.gold) == len(BLANK.findall(passage.article)) > 0
        assert all(UNLABELLED <= gold < len(of) for gold, of in zip(passage.gold, passage.candidates))
        for language in LANGUAGES:
            text = normalise(passage.article, language=language)
            assert len(BLANK.findall(text)) == blanks
            assert opens_sentence(text[: len(text) // 2], language) in (True, False)
            assert sentence_breaks(text, language) is not None
