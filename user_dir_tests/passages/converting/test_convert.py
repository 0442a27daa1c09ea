"""What a file is told to be, encodings, folders, and the command."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fairseq_cloze.cli import main
from fairseq_cloze.errors import ClozeError, PassageError
from fairseq_cloze.passages.converting.convert import Choices, Conversion, convert, guess_format, load
from fairseq_cloze.passages.converting.lines import decode
from fairseq_cloze.passages.reading import read_passages

from ...support.commands import ROOT
from ...support.sheets import LAYOUTS, example_passages, plain
from ...support.word_sheets import WORD_LAYOUTS, saved

EXAMPLES = example_passages()[3::20]
SHEET = LAYOUTS["plain"].sheet([EXAMPLES[0]])


def run(*words: Any, **kwargs: Any) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, words)], **kwargs)


def test_sixty_sheets_in_all_layouts_convert_without_loss(tmp_path: Path) -> None:
    """Blanks, options and keys are counted exactly, and what is written is what ``prepare`` reads."""
    expected = {}
    layouts = [*LAYOUTS.items(), *WORD_LAYOUTS.items()]
    encodings = ["utf-8", "utf-8-sig", "utf-16"]
    (tmp_path / "sheets").mkdir()
    for number in range(60):
        name, layout = layouts[number % len(layouts)]
        fields = EXAMPLES[number % len(EXAMPLES)]
        path = tmp_path / "sheets" / f"{number:02}"
        if name in WORD_LAYOUTS:
            path.with_suffix(".docx").write_bytes(saved(layout([fields])))
        else:
            path.with_suffix(".txt").write_bytes(layout.sheet([fields]).encode(encodings[number % 3]))
        expected[path.name] = plain(fields)
    assert len(layouts) == 24
    said: list[str] = []
    result = convert([tmp_path / "sheets"], tmp_path / "out.jsonl", say=said.append)
    found = {fields["id"]: plain(fields) for fields in map(json.loads, (tmp_path / "out.jsonl").open())}
    assert found == expected
    blanks = sum(len(fields["options"]) for fields in expected.values())
    assert (result.tally.passages, result.tally.blanks, result.tally.labelled) == (60, blanks, blanks)
    assert len([line for line in said if ": 1 passages, " in line]) == 60
    assert [passage.id for passage in read_passages([tmp_path / "out.jsonl"])] == sorted(expected)


@pytest.mark.parametrize(
    ("text", "suffix", "form"),
    [
        (SHEET, ".txt", "sheet"),
        ("[1] is a blank.\n1. A. a B. b", ".txt", "sheet"),
        ('{"article": "', "", "json"),
        ("x", ".jsonl", "json"),
        ("<?xml version='1.0'?><quiz/>", ".txt", "xml"),
        ("I {1:MULTICHOICE:=am~is} here.", ".txt", "cloze"),
        ("I {=am ~is} here.", ".txt", "gift"),
        ("x", ".gift", "gift"),
        ("text\tA\tB\nx", ".txt", "table"),
        ("x", ".csv", "table"),
        ("Text, A, B and C were late.\n\nI ____.", ".txt", "sheet"),
    ],
)
def test_the_format_is_told_from_the_content(text: str, suffix: str, form: str) -> None:
    assert guess_format(text, suffix) == form


@pytest.mark.parametrize(
    ("content", "text", "note"),
    [
        ("café".encode(), "café", None),
        ("\ufeffcafé".encode(), "café", None),
        ("café".encode("utf-16"), "café", None),
        ("café au lait".encode("utf-16-le"), "café au lait", "read as utf-16-le, which it does not say"),
        ("café au lait".encode("utf-16-be"), "café au lait", "read as utf-16-be, which it does not say"),
        ("参考答案 1-5 ABCDA".encode("gb18030"), "参考答案 1-5 ABCDA", "read as gb18030, as it is no UTF-8"),
        ("the café’s “menu”".encode("cp1252"), "the café’s “menu”", "read as cp1252, as it is no UTF-8"),
    ],
)
def test_encodings(content: bytes, text: str, note: str | None) -> None:
    assert decode(content, "a.txt") == (text, note and f"{note}; --encoding says another")


def test_encodings_that_are_said() -> None:
    assert decode("naïve".encode("cp850"), "a.txt", "cp850") == ("naïve", None)
    for name in ("utf-8", "no-such", "hex"):
        with pytest.raises(PassageError, match=f"a.txt: expected text in --encoding {name}, found none"):
            decode(b"\xff\xfe\xfa", "a.txt", name)
    with pytest.raises(PassageError, match="a.txt: expected text, found bytes that are no cp1252; say --encoding NAME"):
        decode(b"\x81 \x8d \x8f", "a.txt")


def packed(**parts: bytes) -> bytes:
    """A zip archive; two underscores in a name stand for a slash."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name.replace("__", "/"), part)
    return content.getvalue()


_ODF = b"application/vnd.oasis.opendocument."
_OLE = b"\xd0\xcf\x11\xe0" + bytes(508)
_WORD, _SLIDES = "save it as .docx or .txt", "save its text as .docx or .txt"


def older(part: str) -> bytes:
    """What an older Office wrote."""
    return _OLE + part.encode("utf-16-le")


#: Files that are something else under any name, and what is said of them.
OTHERS = [
    ("a.odt", packed(mimetype=_ODF + b"text"), f"a text of LibreOffice (.odt); {_WORD}"),
    ("odt.docx", packed(mimetype=_ODF + b"text"), f"a text of LibreOffice (.odt); {_WORD}"),
    ("a.ods", packed(mimetype=_ODF + b"spreadsheet"), "a table of LibreOffice (.ods); save it as .csv"),
    ("a.xlsx", packed(xl__workbook=b""), "a table of Excel (.xlsx); save it as .csv"),
    ("xlsx.docx", packed(xl__workbook=b""), "a table of Excel (.xlsx); save it as .csv"),
    ("a.pptx", packed(ppt__presentation=b""), f"slides of PowerPoint (.pptx); {_SLIDES}"),
    ("a.pages", packed(Index__Document=b""), "a document of Apple's Pages, Numbers or Keynote; export it as .docx"),
    ("a.epub", packed(mimetype=b"application/epub+zip"), f"a book (EPUB); {_SLIDES}"),
    ("a.zip", packed(exam=b"1 _"), "a zip archive; unpack it, and give the files in it"),
    ("doc.docx", older("WordDocument"), f"a document of an older Word (.doc); {_WORD}"),
    ("a.xls", older("Workbook"), "a table of an older Excel (.xls); save it as .csv"),
    ("a.ppt", older("PowerPoint Document"), f"slides of an older PowerPoint (.ppt); {_SLIDES}"),
    ("locked.docx", older("EncryptedPackage"), "a document with a password; take the password away and save it as"),
    ("pdf.txt", b"%PDF-1.7\n1 0 obj", "PDF; save it as .docx or copy its text into a .txt"),
]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "a.pdf",
            b"%PDF-1.4",
            "expected text, a document of Word, a table or a quiz, found PDF; save it as .docx or copy",
        ),
        (
            "a.rtf",
            b"{\\rtf1",
            "expected text, a document of Word, a table or a quiz, found RTF; save it as .docx or .txt",
        ),
        (
            "a.doc",
            b"\xd0\xcf\x11\xe0",
            "expected text, a document of Word, a table or a quiz, found a file of an older",
        ),
        *(
            (name, content, f"expected text, a document of Word, a table or a quiz, found {what}")
            for name, content, what in OTHERS
        ),
        (
            "a.docx",
            b"PK\x03\x04",
            "expected a document of Word (.docx), found a broken one (File is not a zip file); save",
        ),
        ("a.txt", b"", "expected a text with blanks, and options for each, found none"),
        ("a.txt.gz", b"x", "cannot be read (Not a gzipped file (b'x'))"),
        ("a.json", b"[1]", "expected a JSON object"),
    ],
)
def test_other_files_are_refused_by_name(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PassageError) as error:
        list(load([tmp_path / name]))
    assert error.value.problem.startswith(problem)


def test_other_files_are_no_keys_and_no_format_makes_them_fit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("He _1_ home.\n1. A. ran B. sat\n")
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    expected = (
        f"{tmp_path}/a.pdf: expected text, a document of Word, a table or a quiz, found PDF; save it as .docx or copy "
        "its text into a .txt"
    )
    for inputs, keys, form in (("a.txt", ["a.pdf"], None), ("a.pdf", [], "sheet"), ("a.pdf", [], "table")):
        with pytest.raises(PassageError) as error:
            list(load([tmp_path / inputs], [tmp_path / key for key in keys], Choices(source_format=form)))
        assert str(error.value).startswith(expected)


@pytest.mark.parametrize("name", ["a.txt", "a.docx", "a.csv", "a.jsonl", "a.json.gz", "a.parquet"])
def test_pointers_of_git_lfs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(PassageError) as error:
        list(load([tmp_path / name]))
    assert error.value.problem == (
        "cannot be read (is a pointer of git lfs, not the file itself; run 'git lfs pull' in its folder, or download "
        "it); check the file"
    )


def test_the_command(tmp_path: Path) -> None:
    out, tmp_path = tmp_path / "out" / "o.jsonl", tmp_path / "in"
    tmp_path.mkdir()
    (tmp_path / "b.txt").write_text("I am ____.\n")
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write(SHEET)
    (tmp_path / "picture.png").touch()
    ran = run(tmp_path, "--out", out)
    assert ran.exit_code == 1 and not out.exists()
    assert ran.stderr.splitlines()[-1] == (
        f"Error: {tmp_path}/b.txt, line 1: expected options for the blanks of this text, found none ('I am "
        "____.'); mend "
        "the passage, or pass --on-error skip to leave such passages out"
    )
    ran = run(tmp_path, "--out", out, "--on-error", "skip")
    count = len(EXAMPLES[0]["options"])
    assert ran.exit_code == 0 and ran.stdout == (
        f"skipped {tmp_path}/b.txt, line 1: expected options for the blanks of this text, found none ('I am ____.')\n"
        f"1 passages, {count} blanks, 1 skipped, 1 files of other kinds ignored; wrote {out}\n"
    )
    assert ran.stderr == (
        f"{tmp_path}/a.txt.gz: 1 passages, {count} blanks, {4 * count} options, {count} answers; read as a "
        "sheet (text): "
        "blanks with the number in or before them ('___1___'), options lettered 'A.', answers in the sheet\n"
    )
    assert json.loads(out.read_text())["id"] == "a"


def test_standard_input_and_output(capfd: pytest.CaptureFixture[str]) -> None:
    ran = run("-", "--out", "-", input=SHEET)
    assert ran.exit_code == 0 and json.loads(capfd.readouterr().out)["id"] == "stdin" and "; wrote -\n" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (
            ["none.txt"],
            1,
            "Error: none.txt: no such file or folder; give a sheet, a table, a quiz or a data set, or a fol",
        ),
        (
            ["s.txt", "s.txt"],
            1,
            "Error: s.txt, line 1: passage id 's' is taken by s.txt, line 1; give each passage its ow",
        ),
        (
            ["s.txt", "--key", "s.txt", "--key", "s.txt"],
            1,
            "Error: --key: expected one for each of 1 inputs, in order, fo",
        ),
        (["d", "--key", "s.txt"], 1, "Error: d: expected a file, as --key has answers for one, found a folder"),
        (
            ["e"],
            1,
            "Error: e: expected a folder with .txt, .text, .md, .docx, .csv, .tsv, .json, .jsonl, .ndjson, .gift",
        ),
        (
            ["q.gift", "--key", "s.txt"],
            1,
            "Error: q.gift: expected a sheet, as --key has its answers, found gift; say --f",
        ),
        (["s.txt", "--from", "datasets"], 1, "Error: s.txt: expected a folder, as --from datasets says, found a file"),
        (["s.txt", "--to", "key"], 2, "Error: --to and --passages go together"),
        (
            ["-", "--key", "-"],
            1,
            "Error: -: standard input was given twice, and can be read once; give one of them as a file",
        ),
        (
            ["-", "--to", "key", "--passages", "-"],
            1,
            "Error: -: standard input was given twice, and can be read once; give one of them as a file",
        ),
        (
            ["s.txt", "s.txt", "--to", "key", "--passages", "s.txt"],
            2,
            "Error: --to takes one IN, what predict wrote, and",
        ),
    ],
)
def test_what_cannot_be_done(
    words: list[str], code: int, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.txt").write_text(SHEET)
    Path("q.gift").write_text("I {=am ~is} here.")
    Path("d").mkdir()
    Path("d/s.txt").write_text(SHEET)
    Path("e").mkdir()
    ran = run(*words, "--out", "o.jsonl")
    assert ran.exit_code == code and ran.stderr.splitlines()[-1].startswith(problem)
    assert not Path("o.jsonl").exists()


def test_other_marks_of_blanks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,A,B,answer\nI [MASK] here.,am,is,A\n")
    [(fields, passage)] = load([tmp_path / "t.csv"], choices=Choices(blank=r"\[MASK\]"))
    assert fields["article"] == passage.article == "I _ here."
    with pytest.raises(ClozeError, match=r"the text holds 1 '\[MASK\]': if it stands for the blank, give --blank"):
        list(load([tmp_path / "t.csv"]))


def test_examples() -> None:
    """Each says what it is; the exam has its key beside it."""
    folder, counts = ROOT / "examples" / "sheets", {}
    for path in sorted(folder.iterdir()):
        if path.name not in ("README.md", "exam-key.txt"):
            keys, result = [folder / "exam-key.txt"] if path.name == "exam.docx" else [], Conversion()
            list(load([path], keys, result=result))
            assert result.tally.labelled == result.tally.blanks
            counts[path.name] = result.tally.passages, result.tally.blanks
    assert counts == {
        "columns.txt": (2, 25),
        "exam.docx": (2, 24),
        "key-at-the-end.txt": (1, 12),
        "moodle.txt": (1, 3),
        "one-a-line.txt": (1, 12),
        "questions.txt": (4, 4),
        "quiz.csv": (3, 3),
        "quiz.gift": (2, 2),
        "word-bank.txt": (1, 4),
    }
