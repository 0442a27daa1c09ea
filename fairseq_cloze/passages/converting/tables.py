"""Tables: records from CSV and TSV, JSON and JSONL, Parquet, and folders of Hugging Face's ``datasets``."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import PassageError, SetupError, first_line
from ...files import POINTER_IS, is_pointer, read_regular
from ...jsontext import NotJson, parse_json
from ..reading import LONGEST
from .records import Made, Row, find_columns, make_passages

_LONGEST_HEADER = 10_000  # characters of a line with names of columns
_DELIMITERS = (",", "\t", ";", "|")


def fitting_delimiters(text: str) -> list[str]:
    """What may part the cells of a table: with it, the first line of a text names columns of passages."""
    return [each for each in _DELIMITERS if _header_fits(text, each)]


def _header_fits(text: str, delimiter: str) -> bool:
    line = text[:_LONGEST_HEADER].split("\n", 1)[0].strip("\r\ufeff")
    try:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        return len(names) > 2 and bool(find_columns(names, {}, ""))
    except (PassageError, csv.Error):
        return False


def read_table(text: str, source: str, stem: str, chosen: Mapping[str, str]) -> Made:
    """Passages from CSV or TSV whose first line names its columns.

    Raises:
        PassageError: a line does not fit
    """
    csv.field_size_limit(LONGEST)
    line = text.split("\n", 1)[0]
    fitting = fitting_delimiters(text)
    delimiter = fitting[0] if fitting else max(_DELIMITERS, key=line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    names: list[str] = []
    place = 1
    try:
        for cells in reader:
            where, place = f"{source}, line {place}", reader.line_num + 1
            if not cells:
                continue
            if not names:
                names = [name.strip() for name in cells]
                if len(set(names)) < len(names):
                    raise PassageError(where, "expected each name of a column once; rename one of them")
                continue
            if len(cells) != len(names):
                raise PassageError(where, f"expected {len(names)} cells, as the first line has, found {len(cells)}")
            rows.append(Row(where, dict(zip(names, cells)), f"{stem}:{len(rows) + 1}"))
    except csv.Error as error:
        raise PassageError(
            f"{source}, line {reader.line_num}", f"expected a table, found a mistake ({error})"
        ) from error
    if not rows:
        raise PassageError(source, "expected a first line with names of columns, and rows, found none")
    made = make_passages(rows, find_columns(names, chosen, f"{source}, line 1"))
    title = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}[delimiter]
    made.guess = f"table with {title}, {made.guess}"
    return made


def read_json(content: bytes, source: str, stem: str, chosen: Mapping[str, str], lines: bool | None = None) -> Made:
    """Passages from JSON: a record, a list of records, or one in each line.

    Raises:
        PassageError: it is no JSON, or a record does not fit
    """
    found: Any = None
    if not lines:
        try:
            found = parse_json(content)
        except NotJson as error:
            if lines is False or not content.lstrip()[:1] == b"{" or b"\n" not in content.strip():
                raise PassageError(source, str(error)) from error
    if found is None:
        return _from_records(list(_json_lines(content, source, stem)), chosen, source)
    if isinstance(found, dict) and isinstance(found.get("data"), list):
        found = found["data"]
    if isinstance(found, dict):
        return _from_records([Row(source, found, stem)], chosen, source)
    if not isinstance(found, list):
        raise PassageError(source, "expected a JSON object or a list of them")
    records = []
    for number, fields in enumerate(found, 1):
        where = f"{source}, record {number}"
        if not isinstance(fields, dict):
            raise PassageError(where, "expected a JSON object")
        records.append(Row(where, fields, f"{stem}:{number}"))
    return _from_records(records, chosen, source)


def _json_lines(content: bytes, source: str, stem: str) -> Iterator[Row]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            fields = parse_json(line.strip())
        except NotJson as error:
            raise PassageError(where, str(error)) from error
        if not isinstance(fields, dict):
            raise PassageError(where, "expected a JSON object in each line")
        yield Row(where, fields, f"{stem}:{number}")


def _from_records(rows: Sequence[Row], chosen: Mapping[str, str], source: str) -> Made:
    if not rows:
        raise PassageError(source, "expected records, found none")
    first = rows[0].fields
    if not chosen and "article" in first and "options" in first:
        return Made([(row.source, row.id, dict(row.fields)) for row in rows], "passages of this project")
    names = list(dict.fromkeys(name for row in rows[:100] for name in row.fields))
    return make_passages(rows, find_columns(names, chosen, rows[0].source))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError(
            f"Parquet and folders of datasets need pyarrow ({error}): pip install 'fairseq-cloze[sheets]'"
        ) from error
    return pyarrow


def read_parquet(content: bytes, source: str, stem: str, chosen: Mapping[str, str]) -> Made:
    """Passages from a file of Parquet.

    Raises:
        PassageError: it cannot be read, or a row does not fit
        SetupError: pyarrow is not installed
    """
    arrow = _pyarrow()
    try:
        records = arrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except Exception as error:  # whatever a broken file leads to
        raise PassageError(source, f"expected Parquet, found a broken file ({first_line(error)})") from error
    made = _from_records(_rows(records, source, stem), chosen, source)
    made.guess = f"Parquet, {made.guess}"
    return made


def is_dataset(folder: Path) -> bool:
    """Whether a folder is one that ``save_to_disk`` of Hugging Face's ``datasets`` wrote."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def splits_of(folder: Path) -> list[tuple[str, Path]]:
    """Name and folder of each split of a data set; one without a name where it has none.

    Raises:
        PassageError: a split is missing, or its list cannot be read
    """
    if not (folder / "dataset_dict.json").is_file():
        return [("", folder)]
    names = _json_file(folder / "dataset_dict.json").get("splits", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and "/" not in name for name in names):
        raise PassageError(str(folder / "dataset_dict.json"), "expected a list of names in 'splits'")
    return [(name, folder / name) for name in names]


def read_dataset(folder: Path, stem: str, chosen: Mapping[str, str]) -> Made:
    """Passages from one split that ``save_to_disk`` wrote.

    Raises:
        PassageError: it cannot be read, or a row does not fit
        SetupError: pyarrow is not installed
    """
    arrow = _pyarrow()
    state = _json_file(folder / "state.json")
    if state.get("_indices_files"):
        raise PassageError(
            str(folder), "expected rows in order, found a data set with indices; save it after flatten_indices()"
        )
    records: list[Any] = []
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(
        isinstance(each, dict) and isinstance(each.get("filename"), str) for each in files
    ):
        raise PassageError(str(folder / "state.json"), "expected a list of files in '_data_files'")
    for name in (each["filename"] for each in files):
        path = folder / Path(name).name
        try:
            with arrow.memory_map(str(path)) as source:
                records += arrow.ipc.open_stream(source).read_all().to_pylist()
        except Exception as error:  # whatever a broken file leads to
            found = POINTER_IS if is_pointer(path) else f"none ({first_line(error)})"
            raise PassageError(str(path), f"expected a file of Arrow, found {found}") from error
    made = _from_records(_rows(records, str(folder), stem), chosen, str(folder))
    made.guess = f"data set of Hugging Face, {made.guess}"
    return made


def _rows(records: Sequence[Any], source: str, stem: str) -> list[Row]:
    return [Row(f"{source}, row {number}", fields, f"{stem}:{number}") for number, fields in enumerate(records, 1)]


def _json_file(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_regular(path))
    except OSError as error:
        raise PassageError(str(path), f"cannot be read ({error.strerror or error}); check the folder") from error
    except NotJson as error:
        raise PassageError(str(path), str(error)) from error
    if not isinstance(found, dict):
        raise PassageError(str(path), "expected a JSON object")
    return found
