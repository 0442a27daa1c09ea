"""Files of checkpoints: every damage is named, whatever bytes it hits; nothing outside the file is read."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.reading import StillWritten, load_checkpoint, read_checkpoint

NUMBERS = torch.arange(400, dtype=torch.float32)


def saved(state: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def refused(content: bytes) -> str:
    """Why a file is refused, in one line."""
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(io.BytesIO(content), "x.pt")
    text = str(error.value)
    start, end = (
        f"x.pt: cannot be read as a checkpoint, {len(content):,} bytes (",
        "); the file is truncated, damaged or ",
    )
    assert text.startswith(start) and text.endswith(f"{end}no PyTorch file, copy it again") and "\n" not in text
    return text[len(start) : text.rindex(end)]


def parts(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(content: dict[str, bytes], **options: Any) -> bytes:
    """A zip file with right checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, part in content.items():
            archive.writestr(name, part)
    return file.getvalue()


STATE = {"model": {"one": NUMBERS, "two": NUMBERS + 1}, "last_optimizer_state": {"mean": NUMBERS + 2}}
WHOLE = saved(STATE)


def test_every_flipped_byte_of_the_content_is_found() -> None:
    """62.9% became 35.7% before, with status 0."""
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
        infos = archive.infolist()
    for info in infos:
        [name, extra] = struct.unpack("<HH", WHOLE[info.header_offset + 26 : info.header_offset + 30])
        start = info.header_offset + 30 + name + extra
        for at in {start, start + info.file_size // 2, start + info.file_size - 1}:
            damaged = bytearray(WHOLE)
            damaged[at] ^= 0x10
            assert "is damaged: expected checksum" in refused(bytes(damaged)), info.filename


def test_a_flip_in_weights_is_named_by_the_weight() -> None:
    for number, place in ((3.0, "one"), (401.0, "last_optimizer_state.mean")):  # the last number of the optimizer's
        raw = struct.pack("<f", number)
        at = WHOLE.index(raw) if number == 3.0 else WHOLE.rindex(raw)
        damaged = WHOLE[:at] + struct.pack("<f", number + 1) + WHOLE[at + 4 :]
        assert refused(damaged).startswith(f"{place} is damaged: expected checksum ")


def test_any_flipped_byte_changes_nothing_or_is_named() -> None:
    """Headers, directory and gaps, too: what is still read is what was written."""
    file = saved({"model": {"w": torch.arange(3.0)}})
    for at in range(len(file)):
        damaged = bytearray(file)
        damaged[at] ^= 0x21
        try:
            state = read_checkpoint(io.BytesIO(bytes(damaged)), "x.pt")
        except CheckpointError:
            continue
        assert state["model"]["w"].equal(torch.arange(3.0)), at


@pytest.mark.parametrize("length", [0, 3, 4, 21, 22, 100, len(WHOLE) // 2, len(WHOLE) - 1])
def test_cut_short(length: int) -> None:
    refused(WHOLE[:length])


def test_the_optimizer_is_checked_and_left_out() -> None:
    state = read_checkpoint(io.BytesIO(WHOLE), "x.pt")
    assert state["last_optimizer_state"]["mean"].is_meta and state["model"]["one"].equal(NUMBERS)
    state = read_checkpoint(io.BytesIO(WHOLE), "x.pt", optimizer=True)
    assert state["last_optimizer_state"]["mean"].equal(NUMBERS + 2)


def test_files_without_checksums() -> None:
    """``torch.serialization.set_crc32_options(False)`` writes zeros."""
    torch.serialization.set_crc32_options(False)
    try:
        content = saved({"w": NUMBERS})
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(io.BytesIO(content), "x.pt")["w"].equal(NUMBERS)


def _packed(content: dict[str, bytes]) -> bytes:
    return zipped(content, compression=zipfile.ZIP_DEFLATED)


def _twice(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in [*content.items(), ("archive/DATA.pkl", b"N.")]:
            archive.writestr(name, part)
    return file.getvalue()


def _overlapping(content: dict[str, bytes]) -> bytes:
    """Two names of the same bytes: 42 kB could so become petabytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in content.items():
            archive.writestr(name, part)
        archive.filelist[-1].header_offset = archive.filelist[0].header_offset
    return file.getvalue()


_TORCHSCRIPT = "it is a program of TorchScript, not a file of weights"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_packed, "archive/data.pkl is packed, which torch.save never does"),
        (_twice, "archive/DATA.pkl is there twice, or in no folder"),
        (_overlapping, "archive/.data/serialization_id: its header is damaged"),
        (lambda parts: b"nothing" + zipped(parts), None),
        (lambda parts: zipped(parts) + b"after", "the end is missing"),
        (lambda parts: zipped({**parts, "archive/constants.pkl": b"N."}), _TORCHSCRIPT),
        (lambda parts: zipped({**parts, "archive/byteorder": b"big"}), "expected numbers in little-endian order"),
        (lambda parts: zipped({"archive/data/0": b"1234"}), "a zip file without data.pkl"),
        (lambda parts: zipped({**parts, "archive/data/0": b"1234"}), "one: expected 1,600 bytes, found 4"),
        (lambda old: zipped({n: old[n] for n in old if n[-1] != "1"}), "two: expected 1,600 bytes, found nothing"),
    ],
)  # fmt: skip
def test_zip_files_that_are_none_of_torch(make: Callable[[dict[str, bytes]], bytes], reason: str | None) -> None:
    found = refused(make(parts(WHOLE)))
    assert reason in (None, found)


def test_what_lies_before_a_zip_file_is_not_read_as_one() -> None:
    """torch takes a file by its first bytes, and so must a reader that looks at it before torch does."""
    first = saved({"model": {"w": NUMBERS}}, zipped=False)
    assert list(read_checkpoint(io.BytesIO(first + WHOLE), "x.pt")["model"]) == ["w"]


def test_a_tar_file() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    assert (
        refused(file.getvalue()) == "it is a .tar file as torch wrote before 0.1.10, save it again with a newer torch"
    )


def test_older_files_cut_short_or_with_other_sizes() -> None:
    whole = saved(STATE, zipped=False)
    assert read_checkpoint(io.BytesIO(whole), "x.pt")["model"]["two"].equal(NUMBERS + 1)
    for length in (*range(0, 60, 7), len(whole) // 2, len(whole) - 1):
        refused(whole[:length])
    for size in (-1, 3, 1 << 60):
        at = whole.index(struct.pack("<q", 400))
        assert "expected 1,600 bytes, found" in refused(whole[:at] + struct.pack("<q", size) + whole[at + 8 :])


def changed(**values: bytes) -> bytes:
    """A checkpoint of one tensor whose pickle says otherwise, with right checksums."""
    content = parts(saved({"w": torch.arange(6.0).reshape(2, 3)}))
    old = content["archive/data.pkl"]
    replaced = {
        "numel": (b"K\x06t", 1),  # of the storage
        "size": (b"K\x02K\x03\x86", 1),
        "stride": (b"K\x03K\x01\x86", 1),
        "offset": (b"QK\x00", 1),
        "kind": (b"ctorch\nFloatStorage\n", 1),
        "rebuild": (b"ctorch._utils\n_rebuild_tensor_v2\n", 1),
    }
    for name, value in values.items():
        part, times = replaced[name]
        assert old.count(part) == times
        old = old.replace(part, value)
    return zipped({**content, "archive/data.pkl": old})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"numel": b"M\x00\x40t"}, "a tensor"),
        ({"numel": b"J\xff\xff\xff\xfft"}, "tensors of another kind (storage)"),
        ({"size": b"K\x02K\x04\x86"}, "a tensor of size (2, 4) over 6 numbers"),
        ({"size": b"K\x02\x8a\x08" + (1 << 62).to_bytes(8, "little") + b"\x86"}, "a tensor of size (2, "),
        ({"size": b"J\xff\xff\xff\xffK\x03\x86"}, "a tensor of size (-1, 3) and stride (3, 1)"),
        ({"size": b"K\x02\x85"}, "a tensor of size (2,) and stride (3, 1)"),
        ({"stride": b"J\xff\xff\xff\xffK\x01\x86"}, "a tensor of size (2, 3) and stride (-1, 1)"),
        ({"size": b"M\xff\xffM\xff\xff\x86", "stride": b"K\x00K\x00\x86"}, "a tensor of size (65535, 65535)"),
        ({"offset": b"QK\x01"}, "a tensor of size (2, 3) over 6 numbers"),
        ({"kind": b"ctorch\nDoubleStorage\n"}, "w: expected 48 bytes, found 24"),
    ],
)  # fmt: skip
def test_tensors_that_claim_what_the_file_does_not_hold(values: dict[str, bytes], reason: str) -> None:
    found = refused(changed(**values))
    assert found.startswith(reason) or "numel" in values and "expected 65,536 bytes, found 24" in found


@pytest.mark.parametrize("kind", ["_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_wrapper_subclass"])
def test_tensors_of_other_kinds(kind: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(io.BytesIO(changed(rebuild=f"ctorch._utils\n{kind}\n".encode())), "x.pt")
    assert str(error.value).startswith(f"x.pt: holds an object of torch._utils.{kind}, first in w, which is not read")


def test_views_share_what_they_shared() -> None:
    base = torch.arange(6.0)
    state = read_checkpoint(io.BytesIO(saved({"a": base, "b": base[2:].view(2, 2).t()})), "x.pt")
    assert state["b"].tolist() == [[2.0, 4.0], [3.0, 5.0]] and state["b"].stride() == (1, 2)
    state["a"][2] = 9
    assert state["b"][0, 0] == 9


def test_a_file_that_is_written_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewritten in place, cut short under its reader: an error that another try may mend, no signal."""
    path = tmp_path / "x.pt"
    path.write_bytes(WHOLE)
    plain = zipfile.ZipFile

    def cut(file: Any) -> Any:
        found = plain(file)
        path.write_bytes(WHOLE[:100])
        return found

    monkeypatch.setattr(zipfile, "ZipFile", cut)
    with pytest.raises(StillWritten) as error:
        load_checkpoint(path)
    assert str(error.value) == f"{path}: was written to while it was read; try again when it is complete"
