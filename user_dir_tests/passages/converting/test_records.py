"""Rows with named columns: which column is what, what answers are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from fairseq_cloze.errors import ClozeError, PassageError
from fairseq_cloze.passages.converting.convert import Choices, Conversion, load


def converted(tmp_path: Path, name: str, text: str, **choices: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The passages of a file, and what it was taken for."""
    (tmp_path / name).write_text(text)
    result = Conversion()
    found = [fields for fields, _ in load([tmp_path / name], choices=Choices(**choices), result=result)]
    return found, [line.removeprefix(f"{tmp_path}/") for line in result.guesses]


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


GO = {"id": "go", "article": "He _ home.", "options": [["go", "went"]], "answers": ["B"]}

TABLES = {
    "a.csv": "id,text,A,B,answer\ngo,He _ home.,go,went,B\n",
    "b.tsv": "ID\tSentence\tOption 1\tOption 2\tLabel\ngo\tHe _ home.\tgo\twent\t2\n",
    "c.txt": "question;choice_a;choice_b;correct;qid\nHe _ home.;go;went;went;go\n",
    "d.csv": 'id,question,options,key\ngo,He _ home.,"[""go"", ""went""]",1\n',
    "e.csv": "id,question,choices,gold\ngo,He _ home.,go | went,b\n",
    "f.jsonl": lines({"id": "go", "text": "He _ home.", "choices": ["go", "went"], "answer": "went"}),
    "g.json": json.dumps([{"id": "go", "text": "He _ home.", "choices": [["go", "went"]], "answer": ["B"]}]),
    "h.json": json.dumps(
        {"data": [{"qID": "go", "sentence": "He _ home.", "option1": "go", "option2": "went", "answer": "2"}]}
    ),
    "i.jsonl": lines(GO),
    "j.json": json.dumps(GO),
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_found_by_their_names(name: str, tmp_path: Path) -> None:
    if name == "d.csv":  # one answer, which may be counted from 0 or 1
        with pytest.raises(PassageError, match="expected answers of one kind, found such as may be numbers from 0 or"):
            converted(tmp_path, name, TABLES[name])
        TABLES[name] += 'stay,He _ here.,"[""stay"", ""stays""]",0\n'
    found, _ = converted(tmp_path, name, TABLES[name])
    assert found[0] == GO


def test_what_was_guessed_is_said(tmp_path: Path) -> None:
    _, said = converted(tmp_path, "a.csv", TABLES["a.csv"])
    assert said == [
        "a.csv: 1 passages, 1 blanks, 2 options, 1 answers; read as table with commas, columns: text = text, "
        "options = A, B, answer = answer, id = id; answers are letters"
    ]
    _, said = converted(tmp_path, "e.csv", "question,choices\nHe _ home.,go | went\n")
    assert said == [
        "e.csv: 1 passages, 1 blanks, 2 options, 0 answers; read as table with commas, columns: text = question, "
        "options = choices; options parted by '|'",
        "  no column of answers: passages are unlabelled",
    ]


def test_columns_that_the_user_names(tmp_path: Path) -> None:
    text = "n,satz,richtig,falsch,loesung\n1,He _ home.,went,go,went\n"
    columns = ("text=satz", "options=falsch,richtig", "answer=loesung")
    found, _ = converted(tmp_path, "t.csv", text, columns=columns)
    assert found == [{**GO, "id": "t:1"}]
    with pytest.raises(
        PassageError, match="line 1: expected a column with a text, found the columns n, satz, richtig, falsch"
    ):
        converted(tmp_path, "t.csv", text)
    with pytest.raises(PassageError, match="expected a column 'x', as --column id says, found the columns n, satz"):
        converted(tmp_path, "t.csv", text, columns=("id=x",))
    with pytest.raises(ClozeError, match="--column: expected text=NAME, options=NAME,NAME,..., answer=NAME or id=NAME"):
        converted(tmp_path, "t.csv", text, columns=("satz",))


def test_benchmarks(tmp_path: Path) -> None:
    winogrande = {
        "qID": "w1",
        "sentence": "The cup is too small, as the _ is big.",
        "option1": "cup",
        "option2": "ball",
    }
    found, said = converted(
        tmp_path, "w.jsonl", lines({**winogrande, "answer": "2"}, {**winogrande, "qID": "w2", "answer": ""})
    )
    assert [fields.get("answers") for fields in found] == [["B"], None] and "read as WinoGrande" in said[0]
    hellaswag = {
        "ind": 4,
        "ctx_a": "a",
        "ctx_b": "b",
        "ctx": "He takes a ball. He",
        "endings": ["eats it.", "throws it."],
    }
    found, said = converted(tmp_path, "h.jsonl", lines({**hellaswag, "label": 1}))
    assert found == [
        {"id": "h:1", "article": "He takes a ball. He _", "options": [["eats it.", "throws it."]], "answers": ["B"]}
    ]
    assert "read as HellaSwag" in said[0]
    swag = "video-id,sent1,sent2,ending0,ending1,ending2,ending3,label\nv,He takes a ball.,He,eats it.,is it.,a.,b.,0\n"
    found, said = converted(tmp_path, "s.csv", swag)
    assert (
        found[0]["article"] == "He takes a ball. He _"
        and found[0]["answers"] == ["A"]
        and len(found[0]["options"][0]) == 4
    )
    assert "SWAG" in said[0]


def test_rows_of_one_text_are_one_passage(tmp_path: Path) -> None:
    text = "id,text,A,B,answer\np,I _ and _.,a,b,A\np,I _ and _.,c,d,B\nq,You _.,e,f,A\n"
    found, _ = converted(tmp_path, "t.csv", text)
    assert found == [
        {"id": "p", "article": "I _ and _.", "options": [["a", "b"], ["c", "d"]], "answers": ["A", "B"]},
        {"id": "q", "article": "You _.", "options": [["e", "f"]], "answers": ["A"]},
    ]
    with pytest.raises(
        PassageError, match="line 2: expected 2 rows, one for each blank of the text, found 1 with this"
    ):
        converted(tmp_path, "t.csv", text.replace("p,I _ and _.,c,d,B\n", ""))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("text,A,B,answer\nHe _.,a,b\n", "line 2: expected 4 cells, as the first line has, found 3"),
        (
            "text,A,B,answer\nHe _.,a,,A\n",
            "line 2: field 'B': expected an option, found nothing; write / where nothing",
        ),
        (
            "text,A,B,answer\nHe _.,a,b,C\n",
            "line 2: field 'answer': expected an answer that is a letter, a number or the",
        ),
        (
            "text,A,B,answer\nHe _.,b,a,a\n",
            "line 2: field 'answer': expected answers of one kind, found such as may be let",
        ),
        ("text,options,answer\nHe _.,a" + "|b" * 126 + "|c,A\n", "line 2: expected at most 127 options, found 128"),
        ("text,A,A\nHe _.,a,b\n", "line 1: expected each name of a column once; rename one of them"),
        ('text,A,B\nHe _.,a,"b\n', "line 2: expected a table, found a mistake (unexpected end of data)"),
        ("text,options\nHe _.,a b\n", "line 2: field 'options': expected options parted by one of '|' ';'"),
        ("text,A,B\nHe.,a,b\n", "line 2: field 'article': expected a blank, a run of underscores, for what stands in"),
        (
            "text,A,B,answer\nI _ and _.,a,b,A\nI _ and _.,c,d,\n",
            "line 2: expected answers for all 2 blanks or none, fo",
        ),
    ],
)
def test_what_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(PassageError) as error:
        converted(tmp_path, "t.csv", text)
    where = ": " if problem.startswith("expected") else ", "
    assert str(error.value).startswith(f"{tmp_path}/t.csv{where}{problem}")


ROWS = [
    {"text": "He _ home.", "choices": ["go", "went"], "answer": 1},
    {"text": "I _.", "choices": ["go", "am"], "answer": 0},
]


def test_parquet(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "p.parquet")
    result = Conversion()
    found = [fields for fields, _ in load([tmp_path / "p.parquet"], result=result)]
    assert found[0] == {**GO, "id": "p:1"} and found[1]["answers"] == ["A"]
    assert "read as Parquet, columns: text = text, options = choices, answer = answer" in result.guesses[0]
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(PassageError, match="p.parquet: expected Parquet, found a broken file"):
        list(load([tmp_path / "p.parquet"]))


def save(folder: Path, rows: list[dict[str, Any]], **state: Any) -> None:
    """As ``save_to_disk`` does it."""
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
        with pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None, **state}))
    (folder / "dataset_info.json").write_text("{}")


def test_data_sets_of_hugging_face(tmp_path: Path) -> None:
    save(tmp_path / "one", ROWS)
    found = [fields for fields, _ in load([tmp_path / "one"])]
    assert found[0] == {**GO, "id": "one:1"}
    for split in ("train", "test"):
        save(tmp_path / "all" / split, ROWS)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [fields["id"] for fields, _ in load([tmp_path / "all"])] == ["train:1", "train:2", "test:1", "test:2"]
    save(tmp_path / "chosen", ROWS, _indices_files=[{"filename": "indices.arrow"}])
    with pytest.raises(
        PassageError, match="chosen: expected rows in order, found a data set with indices; save it after"
    ):
        list(load([tmp_path / "chosen"]))
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"arrow")
    with pytest.raises(PassageError, match="data-00000-of-00001.arrow: expected a file of Arrow, found none"):
        list(load([tmp_path / "one"]))
