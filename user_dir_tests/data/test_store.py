from __future__ import annotations

import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store, StoreWriter
from fairseq_cloze.errors import DataBinError
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.passages.reading import read_passages

from ..support.commands import PASSAGES
from ..support.stores import as_lists


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return list(read_passages([PASSAGES / "train"]))


def write(folder: Path, chunks: list[Any], rows: int) -> Any:
    folder.mkdir()
    writer = StoreWriter(folder, rows)
    for chunk in chunks:
        writer.append(chunk)
    writer.close()
    return writer.describe()


def opened(folder: Path, chunks: list[Any], rows: int) -> Store:
    return Store.open(folder, write(folder, chunks, rows), rows)


def test_chunks_make_the_same_store_on_disk_and_in_memory(
    tmp_path: Path, passages: list[Passage], vocabulary: Any
) -> None:
    whole = encode_passages(passages, vocabulary)
    parts = [encode_passages(passages[a:b], vocabulary) for a, b in ((0, 1), (1, 20), (20, 32))]
    stores = [
        opened(tmp_path / "a", parts, len(vocabulary)),
        Store.from_columns([whole], len(vocabulary)),
        Store.from_columns(parts, len(vocabulary)),
    ]
    assert as_lists(stores[0]) == as_lists(stores[1]) == as_lists(stores[2])
    for store in stores:
        assert (len(store), store.blanks) == (32, 405)
        assert [store.id(number) for number in range(32)] == [passage.id for passage in passages]
    again = Store.from_columns([stores[0].chunk(number) for number in range(32)], len(vocabulary))
    for name in stores[0].columns:
        assert stores[0].columns[name].tolist() == stores[1].columns[name].tolist() == again.columns[name].tolist()


def test_a_stored_passage_is_the_passage(tmp_path: Path, passages: list[Passage], vocabulary: Any) -> None:
    store = opened(tmp_path / "a", [encode_passages(passages, vocabulary)], len(vocabulary))
    for number, passage in enumerate(passages):
        item = store[number]
        assert item.gold.tolist() == list(passage.gold)
        assert (item.tokens[item.blank_positions] == vocabulary.mask).all()
        decoded = [[vocabulary.decode(tokens).strip() for tokens in row] for row in item.candidates]
        assert decoded == [list(row) for row in passage.candidates]


def test_the_digest_is_that_of_the_manifest_or_of_the_content(
    tmp_path: Path, passages: list[Passage], vocabulary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for both; where the manifest has digests nothing is read."""
    rows, chunk = len(vocabulary), encode_passages(passages, vocabulary)
    described = write(tmp_path / "a", [chunk], rows)
    old = {name: {key: column[key] for key in ("dtype", "entries")} for name, column in described.items()}
    wanted = Store.open(tmp_path / "a", old, rows).digest
    assert Store.from_columns([chunk], rows).digest == wanted
    assert Store.from_columns([encode_passages(passages[1:], vocabulary)], rows).digest != wanted
    monkeypatch.setattr(Store, "digests", None)
    store = Store.open(tmp_path / "a", described, rows)
    assert store.digest == pickle.loads(pickle.dumps(store)).digest == wanted


def test_no_such_passage(passages: list[Passage], vocabulary: Any) -> None:
    store = Store.from_columns([encode_passages(passages[:2], vocabulary)], len(vocabulary))
    for number in (-1, 2):
        with pytest.raises(IndexError, match=f"passage {number} of 2"):
            store[number]


def test_damaged_files_do_not_open(tmp_path: Path, passages: list[Passage], vocabulary: Any) -> None:
    folder = tmp_path / "a"
    described = write(folder, [encode_passages(passages, vocabulary)], len(vocabulary))
    tokens = folder / "tokens.bin"
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-1])
    with pytest.raises(DataBinError) as error:
        Store.open(folder, described, len(vocabulary))
    assert str(error.value) == (
        f"{tokens}: expected {len(content):,} bytes, found {len(content) - 1:,}; "
        "the data-bin is damaged, copy it again, or run 'fairseq-cloze prepare' again"
    )
    tokens.unlink()
    with pytest.raises(DataBinError, match=r"tokens\.bin: expected a file, found No such file or directory; "):
        Store.open(folder, described, len(vocabulary))


def test_opening_takes_no_memory(tmp_path: Path, passages: list[Passage], vocabulary: Any) -> None:
    """A store of 200 MB opens, and gives a passage, while the process grows by a few MB."""
    chunk = encode_passages(passages, vocabulary)
    described = write(tmp_path / "a", [chunk] * 4000, len(vocabulary))
    size = sum(file.stat().st_size for file in (tmp_path / "a").iterdir())
    assert size > 150e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store = Store.open(tmp_path / "a", described, len(vocabulary))
    assert store[len(store) - 1].tokens.tolist() == store[31].tokens.tolist()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # KiB


def test_other_processes_map_the_files_themselves(tmp_path: Path, passages: list[Passage], vocabulary: Any) -> None:
    """Data loader workers are sent a path, not the passages."""
    chunk = encode_passages(passages, vocabulary)
    store = opened(tmp_path / "a", [chunk] * 50, len(vocabulary))
    content = pickle.dumps(store)
    assert len(content) < 4000
    assert as_lists(pickle.loads(content)) == as_lists(store)
    memory = Store.from_columns([chunk], len(vocabulary))
    assert as_lists(pickle.loads(pickle.dumps(memory))) == as_lists(memory)


def test_zero_length_columns_open(tmp_path: Path, vocabulary: Any) -> None:
    """Candidates that are all 'nothing' leave a column without an entry."""
    passage = Passage("p", "p.json", "_", (("/", "\\"),), (0,))
    store = opened(tmp_path / "a", [encode_passages([passage], vocabulary)], len(vocabulary))
    assert store.columns["candidate_tokens"].shape == (0,)
    assert [[tokens.tolist() for tokens in row] for row in store[0].candidates] == [[[], []]]
    assert np.asarray(store[0].tokens).tolist() == [vocabulary.mask]


#: Two passages as files of format version 1 hold them: name → type and values.  Data-bins out there have these names.
FORMAT_1: dict[str, tuple[str, list[Any]]] = {
    "id_bytes": ("uint8", list(b"ab/c")),
    "id_length": ("int64", [0, 1, 4]),
    "tokens": ("uint16", [7, 50, 8, 50, 50, 9]),
    "token_count": ("int64", [0, 4, 6]),
    "sentence_start": ("int32", [0, 2, 0]),
    "sentence_count": ("int64", [0, 2, 3]),
    "blank_position": ("int32", [1, 3, 0]),
    "blank_count": ("int64", [0, 2, 3]),
    "gold": ("int8", [1, 0, -1]),
    "candidate_count": ("int64", [0, 2, 5, 7]),
    "candidate_first": ("int8", [0, 1, 0, 1, 0, 0, 1]),
    "candidate_rank": ("float32", [0, 1, 1, 0, 0, 0, 0]),
    "candidate_tokens": ("uint16", [4, 5, 6, 7, 4, 8, 9]),
    "candidate_length": ("int64", [0, 1, 3, 4, 4, 5, 6, 7]),
}


def test_format_1_is_read_and_written(tmp_path: Path) -> None:
    for name, (dtype, values) in FORMAT_1.items():
        (tmp_path / f"{name}.bin").write_bytes(np.array(values, dtype).tobytes())
    described = {name: {"dtype": dtype, "entries": len(values)} for name, (dtype, values) in FORMAT_1.items()}
    store = Store.open(tmp_path, described, 51)
    assert as_lists(store) == [
        ("a", [7, 50, 8, 50], [0, 2], [1, 3], [1, 0], [[[4], [5, 6]], [[7], [], [4]]]),
        ("b/c", [50, 9], [0], [0], [-1], [[[8], [9]]]),
    ]
    assert store.candidate_token_offsets.tolist() == FORMAT_1["candidate_length"][1]
    lengths = {  # as encoding has them
        "id_length": [1, 3],
        "token_count": [4, 2],
        "sentence_count": [2, 1],
        "blank_count": [2, 1],
        "candidate_count": [2, 3, 2],
        "candidate_length": [1, 2, 1, 0, 1, 1, 1],
    }
    columns = {name: np.array(lengths.get(name, values), dtype) for name, (dtype, values) in FORMAT_1.items()}
    again = write(tmp_path / "again", [columns], 51)
    assert {name: {key: column[key] for key in ("dtype", "entries")} for name, column in again.items()} == described
    files = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert files == {f"{name}.bin": (tmp_path / f"{name}.bin").read_bytes() for name in FORMAT_1}
