from __future__ import annotations

import gzip
import lzma
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.generation.prose import (
    MAX_WORDS,
    MIN_WORDS,
    Chunk,
    Cutter,
    Paragraph,
    find_texts,
    read_chunks,
    sentences,
    unsuitable,
)

PROSE = "It was late when the old man came back to the house, and there was nobody to let him in."


def paragraphs(file: Path) -> list[Paragraph]:
    return [paragraph for chunk in read_chunks([(file, "t")]) for paragraph in chunk.paragraphs]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, ""),
        ("CHAPTER ONE", "heading"),
        ("The Return of the Old Man", "heading"),
        ('"Come in," she said.', ""),
        ("- milk, bread and some eggs.", "verse or list"),
        ("12. He went to the market.", "verse or list"),
        ("He was _very_ late.", "underscores"),
        ("See https://example.org for the rest.", "markup"),
        ("It rose by 12 34 56 78 90 12 34 56 78 90 12 34 56 78.", "figures"),
        ("THE OLD MAN CAME BACK TO THE HOUSE.", "capitals"),
        ("Старик вернулся домой поздно вечером.", "other script"),
        ("Der alte Mann kam am Abend nach Hause und fand niemanden mehr im dunklen Garten.", "not English prose"),
    ],
)
def test_what_is_left_out(text: str, reason: str) -> None:
    assert unsuitable(text) == reason


def test_a_line_is_a_paragraph(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text(f"\ufeff{PROSE}  {PROSE}\n\n{PROSE} {PROSE}\nA\tB\n", encoding="utf-8")
    assert paragraphs(file) == [
        Paragraph(1, f"{PROSE} {PROSE}"),
        Paragraph(3, f"{PROSE} {PROSE}"),
        Paragraph(4, "A B", "table"),
    ]


def test_lines_wrapped_by_hand_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    first, second = PROSE[:45], PROSE[46:]
    block = f"{first}\n{second}\n{first}\n{second}\n"
    verse = "The night was cold,\nthe road was long,\nand in the dark\nhe sang a song.\n"
    file.write_text(f"{block}\n{block}\n{verse}")
    whole = Paragraph(1, f"{PROSE} {PROSE}")
    found = paragraphs(file)
    assert found[:2] == [whole, Paragraph(6, whole.text)]
    assert (found[2].line, found[2].problem) == (11, "verse or list")


def test_an_endless_line_is_left_out_not_loaded(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("word " * 600_000 + f"\n{PROSE}\n")
    assert paragraphs(file) == [Paragraph(1, "", "line over 1 MB"), Paragraph(2, PROSE)]


def test_compressed_files_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{PROSE}\n" * 3)
    with gzip.open(tmp_path / "b.txt.gz", "wt") as packed:
        packed.write(f"{PROSE}\n" * 3)
    with lzma.open(tmp_path / "c.txt.xz", "wt") as packed:
        packed.write(f"{PROSE}\n" * 3)
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "other.csv").write_text("no")
    files = find_texts([tmp_path])
    assert [name for _, name in files] == ["a", "b", "c"]
    assert [chunk.paragraphs for chunk in read_chunks(files)] == [tuple(paragraphs(tmp_path / "a.txt"))] * 3


def test_bytes_read_add_up(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text(f"{PROSE}\n\n" * 9000)
    chunks = list(read_chunks([(file, "t")]))
    assert len(chunks) > 2 and abs(sum(chunk.size for chunk in chunks) - file.stat().st_size) <= 1


def test_errors(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ClozeError) as error:
        find_texts([tmp_path / "none"])
    assert str(error.value) == (
        f"{tmp_path}/none: no such file or folder; give text files, folders of them, or - for standard input"
    )
    with pytest.raises(ClozeError) as error:
        find_texts([tmp_path / "a"])
    assert str(error.value) == (
        f"{tmp_path}/a: expected a folder with .txt, .txt.gz, .txt.xz files, found none; check the path"
    )
    (tmp_path / "a" / "no.txt").mkdir()
    with pytest.raises(ClozeError, match="a: expected a folder with .txt"):
        find_texts([tmp_path / "a"])
    (tmp_path / "a" / "no.txt").rmdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ClozeError) as error:
        find_texts([tmp_path / "pipe"])
    assert str(error.value) == f"{tmp_path}/pipe: cannot be read twice; pipe the text in and give -"
    for folder in "ab":
        (tmp_path / folder / "t.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(ClozeError) as error:
        find_texts([tmp_path / "a", tmp_path / "b"])
    assert str(error.value) == (
        f"{tmp_path}/b/t.txt: its passages would have the same ids as those of {tmp_path}/a/t.txt; "
        "rename one of them, or give the folder above both"
    )
    with pytest.raises(ClozeError) as error:
        find_texts([tmp_path / "a", tmp_path / "a" / "t.txt"])
    assert str(error.value) == f"{tmp_path}/a/t.txt: given twice; give it once"
    with pytest.raises(ClozeError) as error:
        paragraphs(tmp_path / "a" / "t.txt")
    assert str(error.value) == (
        f"{tmp_path}/a/t.txt, line 2: expected UTF-8 text, found byte 0xe9; "
        "convert the file, for example with iconv -f latin1 -t utf-8"
    )
    (tmp_path / "t.txt.gz").write_text("not gzip")
    with pytest.raises(ClozeError, match=r"t.txt.gz: cannot be read \(Not a gzipped file .*\); check the file"):
        paragraphs(tmp_path / "t.txt.gz")


def test_sentences_end_behind_no_abbreviation() -> None:
    text = 'Mr. and Mrs. J. Hill left. "Did it rain?" It did.'
    assert [text[start:end] for start, end in sentences(text)] == [
        "Mr. and Mrs. J. Hill left.",
        '"Did it rain?"',
        "It did.",
    ]


SENTENCE = st.integers(3, 40).map(lambda words: "The " + "word " * (words - 2) + "ends.")
PARAGRAPH = st.lists(SENTENCE, min_size=1, max_size=25).map(" ".join)
PROBLEM = st.sampled_from(["", "", "", "", "heading"])


@given(st.lists(st.tuples(PARAGRAPH, PROBLEM), max_size=25))
def test_pieces_keep_the_text_in_order(given_paragraphs: list[tuple[str, str]]) -> None:
    chunk = Chunk("t", tuple(Paragraph(at, *entry) for at, entry in enumerate(given_paragraphs, 1)), 0)
    cutter = Cutter()
    excerpts = list(cutter.cut(chunk))
    assert all(MIN_WORDS <= len(excerpt.text.split()) <= MAX_WORDS for excerpt in excerpts)
    assert len({excerpt.id for excerpt in excerpts}) == len(excerpts)
    good = "\n\n".join(paragraph.text for paragraph in chunk.paragraphs if not paragraph.problem).split()
    at = 0
    for excerpt in excerpts:  # each is a stretch of the text, after the one before
        words = excerpt.text.split()
        starts = [start for start in range(at, len(good)) if good[start : start + len(words)] == words]
        assert starts
        at = starts[0] + len(words)
        assert all(part.endswith(".") and part == part.strip() for part in excerpt.text.split("\n\n"))
    assert cutter.skipped["heading"] == sum(bool(paragraph.problem) for paragraph in chunk.paragraphs)
    assert list(Cutter().cut(chunk)) == excerpts


def test_nothing_is_dropped_in_silence() -> None:
    entries = [Paragraph(1, PROSE), Paragraph(2, "CHAPTER", "heading"), Paragraph(3, " ".join([PROSE] * 12))]
    cutter = Cutter()
    assert [excerpt.id for excerpt in cutter.cut(Chunk("t", tuple(entries), 0))] == ["t:3"]
    assert cutter.skipped == {"heading": 1, "too little text in one place": 1}
    cutter = Cutter()
    assert not list(cutter.cut(Chunk("t", (Paragraph(1, "word " * 400 + "end."),), 0)))
    assert cutter.skipped == {"sentence too long": 1}
    endless = "Word " * 400 + "end."
    entries = [Paragraph(1, PROSE), Paragraph(2, f"{PROSE} {endless} {PROSE}"), Paragraph(3, PROSE)]
    cutter = Cutter()
    assert not list(cutter.cut(Chunk("t", tuple(entries), 0)))
    assert cutter.skipped == {"too little text in one place": 2, "sentence too long": 1}
    cutter = Cutter()
    entries[0] = Paragraph(1, " ".join([PROSE] * 9))
    assert [excerpt.text.count(PROSE) for excerpt in cutter.cut(Chunk("t", tuple(entries), 0))] == [10]
    assert cutter.skipped == {"sentence too long": 1, "too little text in one place": 1}
    cutter = Cutter()
    [excerpt] = cutter.cut(Chunk("t", (Paragraph(1, " ".join([PROSE] * 18)),), 0))
    assert len(excerpt.text.split()) < 20 * 18 and cutter.skipped == {"ends of paragraphs": 1}
    cutter = Cutter()
    entries = [Paragraph(1, " ".join([PROSE] * 9)), Paragraph(2, "He said:"), Paragraph(3, "", "verse or list")]
    assert [excerpt.text for excerpt in cutter.cut(Chunk("t", tuple(entries), 0))] == [entries[0].text]
    assert cutter.skipped == {"with an open end": 1, "verse or list": 1}
    cutter = Cutter()
    assert not list(cutter.cut(Chunk("t", tuple(Paragraph(line, "He sang a song.") for line in range(60)), 0)))
    assert cutter.skipped["verse or list"] >= 50 and sum(cutter.skipped.values()) == 60
