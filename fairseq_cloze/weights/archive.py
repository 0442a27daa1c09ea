"""Archive: the parts of a checkpoint's file, read once and compared with their checksums.

A file is read, never mapped: one that is written to meanwhile would end a process that has it mapped, by a signal.
"""

from __future__ import annotations

import io
import struct
import sys
import tarfile
import zipfile
import zlib
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from .plain import StorageRef, Unpickler

_ZIP, _ZIP_END, _ZIP_HEADER = b"PK\x03\x04", b"PK\x05\x06", 30
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_CHUNK = 1 << 20


class Damaged(Exception):
    """What is wrong with a file, in words."""


class Part(NamedTuple):
    """Bytes of a file; ``checksum`` is their CRC-32, ``None`` where the file holds none."""

    offset: int
    size: int
    checksum: int | None


class Archive:
    """A file as ``torch.save`` writes it, or as it did before torch 1.6, which has no checksums.

    Attributes:
        graph: its pickle as :class:`Unpickler` reads it

    Raises:
        Damaged: it is none of these, or damaged; other errors come from the parsers of pickles and zip files
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self._read: dict[str, Tensor] = {}
        self._parts: dict[str, Part] = {}
        file.seek(0)
        self.zipped = file.read(4) == _ZIP
        self.graph: Any = self._read_zip() if self.zipped else self._read_legacy()

    def storage(self, ref: StorageRef, what: str, keep: bool) -> Tensor:
        """Bytes of a storage, ``uint8 (nbytes,)``, on the meta device if they are not kept; they are always checked.

        Raises:
            Damaged: *what* is damaged, or of another size than the file says elsewhere
        """
        known = self._read.get(ref.key)
        if known is None or (keep and known.is_meta):
            part = self._parts.get(ref.key)
            if part is None or part.size != ref.nbytes:
                found = "nothing" if part is None else f"{part.size:,}"
                raise Damaged(f"{what}: expected {ref.nbytes:,} bytes, found {found}")
            self._read[ref.key] = self._content(part, what, keep)
        return self._read[ref.key]

    def check_others(self) -> None:
        """Check what was not asked for; raises ``Damaged``."""
        for key, part in self._parts.items():
            if key not in self._read:
                self._content(part, f"part {key}", keep=False)

    def _content(self, part: Part, what: str, keep: bool = True) -> Tensor:
        out = torch.empty(part.size, dtype=torch.uint8, device="cpu" if keep else "meta")
        buffer: Any = out.numpy() if keep else bytearray(min(part.size, _CHUNK))
        view = memoryview(buffer)
        self._file.seek(part.offset)
        checksum = done = 0
        while done < part.size:
            chunk = view[done : done + _CHUNK] if keep else view[: part.size - done]
            count = self._file.readinto(chunk)  # type: ignore[attr-defined]
            if not count:
                raise Damaged(f"{what}: the file ends after {done:,} of {part.size:,} bytes")
            checksum = zlib.crc32(chunk[:count], checksum)
            done += count
        if part.checksum not in (None, checksum):
            raise Damaged(f"{what} is damaged: expected checksum {part.checksum:08x}, found {checksum:08x}")
        return out

    # -- zip files, torch 1.6 and later ------------------------------------------------------------------------------

    def _read_zip(self) -> Any:
        parts = self._directory()
        if "constants.pkl" in parts:
            raise Damaged("it is a program of TorchScript, not a file of weights")
        if "data.pkl" not in parts:
            raise Damaged("a zip file without data.pkl")
        small = {name: self._content(parts[name], name).numpy().tobytes() for name in parts if name[:5] != "data/"}
        if small.get("byteorder", sys.byteorder.encode()) != sys.byteorder.encode():
            raise Damaged(f"expected numbers in {sys.byteorder}-endian order")
        self._parts = {name[5:]: part for name, part in parts.items() if name[:5] == "data/"}
        return Unpickler(io.BytesIO(small["data.pkl"])).load()

    def _directory(self) -> dict[str, Part]:
        """Parts by name, without the folder that all are in; no two may share bytes, and none may be packed."""
        self._file.seek(max(self._size - 22, 0))
        end = self._file.read(22)
        if end[:4] != _ZIP_END or end[20:] != b"\0\0":
            raise Damaged("the end is missing")
        with zipfile.ZipFile(self._file) as directory:
            infos, limit = directory.infolist(), directory.start_dir
        folder = infos[0].filename.split("/")[0] + "/" if infos else ""
        unchecked = all(info.CRC == 0 for info in infos)  # torch.serialization.set_crc32_options(False)
        parts: dict[str, Part] = {}
        names: set[str] = set()
        position = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            name = info.orig_filename
            self._file.seek(info.header_offset)
            header = self._file.read(_ZIP_HEADER)
            lengths = struct.unpack("<HH", header[26:])
            own = self._file.read(lengths[0])
            if info.compress_type or info.flag_bits & 1 or info.compress_size != info.file_size:
                raise Damaged(f"{name} is packed, which torch.save never does")
            if header[:4] != _ZIP or own != name.encode("utf-8" if info.flag_bits & 0x800 else "cp437"):
                raise Damaged(f"{name}: its header is damaged")
            offset = info.header_offset + _ZIP_HEADER + sum(lengths)
            first = not parts and info.header_offset != 0
            if first or info.header_offset < position or offset + info.file_size > limit:
                raise Damaged(f"{name}: lies where something else is")
            position = offset + info.file_size
            if name.lower() in names or not name.startswith(folder):
                raise Damaged(f"{name} is there twice, or in no folder")
            names.add(name.lower())
            parts[name[len(folder) :]] = Part(offset, info.file_size, None if unchecked else info.CRC)
        return parts

    # -- older files -------------------------------------------------------------------------------------------------

    def _read_legacy(self) -> Any:
        self._file.seek(0)
        if self._size and tarfile.is_tarfile(self._file):
            raise Damaged("it is a .tar file as torch wrote before 0.1.10, save it again with a newer torch")
        self._file.seek(0)
        magic, protocol, _ = (Unpickler(self._file).load() for _ in range(3))
        if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            raise Damaged("no file of torch")
        unpickler = Unpickler(self._file)
        graph, keys = unpickler.load(), Unpickler(self._file).load()
        for key in keys:
            ref = unpickler.storages[key]
            [numel] = struct.unpack("<q", self._file.read(8))
            offset = self._file.tell()
            if numel != ref.numel or offset + ref.nbytes > self._size:
                raise Damaged(f"storage {key}: expected {ref.nbytes:,} bytes, found {self._size - offset:,}")
            self._parts[key] = Part(offset, ref.nbytes, None)
            self._file.seek(offset + ref.nbytes)
        return graph
