"""fairseq's tarballs as they come: what is taken of them, and what a stranger's could try."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fairseq_cloze.errors import CheckpointError, ClozeError
from fairseq_cloze.weights import release
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.finding import open_checkpoint
from fairseq_cloze.weights.hugging_face import import_hf

from ..support.commands import run

BPE = ("encoder.json", "vocab.bpe")


@pytest.fixture(scope="module")
def contents(pretrained: Path) -> dict[str, bytes]:
    """What such a tarball holds: weights that carry no vocabulary, with a head of another task, and the dictionary."""
    state = torch.load(pretrained / "model.pt", weights_only=False)
    del state["task_state"]
    width = Checkpoint.read(pretrained / "model.pt").architecture.encoder_embed_dim
    for part, rows in (("dense", width), ("out_proj", 3)):
        name = f"classification_heads.mnli.{part}"
        state["model"] |= {f"{name}.weight": torch.ones(rows, width), f"{name}.bias": torch.ones(rows)}
    model = io.BytesIO()
    torch.save(state, model)
    return {"model.pt": model.getvalue(), "dict.txt": (pretrained / "dict.txt").read_bytes(), "NOTE": b"hello"}


def pack(path: Path, members: dict[str, bytes], edit: Callable[[tarfile.TarFile], None] | None = None) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        if edit:
            edit(archive)
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def refused(source: Path, out: Path, pretrained: Path) -> str:
    """The message, without the name; nothing is left behind."""
    with pytest.raises(CheckpointError) as error:
        import_hf(source, out, pretrained)
    assert not [*out.iterdir()]
    return str(error.value).removeprefix(f"{source}: ")


def test_as_it_comes(tmp_path: Path, contents: dict[str, bytes], pretrained: Path) -> None:
    """The weights of the tarball to the byte; the BPE from the folder that is given, from beside it, or from within."""
    members = {f"roberta.tiny/{name}": content for name, content in contents.items()}
    source = pack(tmp_path / "roberta.tiny.tar.gz", members)
    done = run("fairseq-cloze", "import-hf", source, "--out", tmp_path / "out", "--gpt2-bpe", pretrained)
    assert done.text == (
        f"{source}: 2 layers, 600 tokens; it has heads of other tasks (mnli)\nwrote {tmp_path}/out/model.pt\n"
    )
    bpe = {name: (pretrained / name).read_bytes() for name in BPE}
    expected = {**bpe, **{name: contents[name] for name in ("model.pt", "dict.txt")}}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected
    assert {oct((tmp_path / "out" / name).stat().st_mode) for name in expected} == {oct(0o100666 & ~umask())}
    with pytest.raises(CheckpointError) as error:
        import_hf(source, tmp_path / "none")
    assert str(error.value) == (
        f"{source}: expected encoder.json and vocab.bpe in {tmp_path}, found no encoder.json (No such file or "
        "directory); fairseq's tarballs come without: get both from https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/ "
        "and give their folder as --gpt2-bpe (for XLM-R and CamemBERT import the model of the hub instead)"
    )
    for name, content in bpe.items():
        (tmp_path / name).write_bytes(content)
    import_hf(source, tmp_path / "beside")
    (tmp_path / "inside").mkdir()
    import_hf(pack(tmp_path / "inside" / "x.tar.gz", {**contents, **bpe}), tmp_path / "within")
    plain = tmp_path / "plain.tar"
    plain.write_bytes(gzip.decompress(source.read_bytes()))
    import_hf(plain, tmp_path / "plain")
    for folder in ("beside", "within", "plain"):
        assert {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} == expected


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_commands_that_want_a_checkpoint_say_how(tmp_path: Path, contents: dict[str, bytes]) -> None:
    source = pack(tmp_path / "a b.tar.gz", contents)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(source)
    assert str(error.value) == (
        f"{source}: is an archive, as fairseq's releases come in; run 'fairseq-cloze import-hf '{source}' --out DIR' "
        "and give DIR/model.pt"
    )


def link(kind: bytes) -> Callable[[tarfile.TarFile], None]:
    def edit(archive: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo("x/model.pt")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)

    return edit


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_are_not_followed(tmp_path: Path, contents: dict[str, bytes], pretrained: Path, kind: bytes) -> None:
    source = pack(tmp_path / "x.tar.gz", contents, link(kind))
    assert refused(source, tmp_path / "out", pretrained) == (
        "expected model.pt as a file, found a link or a device of that name; take fairseq's own tarball"
    )


def test_no_path_leads_out(tmp_path: Path, contents: dict[str, bytes], pretrained: Path) -> None:
    """Names say where things lie in the archive, and nothing of where they are written."""
    members = {f"../../{name}": content for name, content in contents.items()} | {f"{tmp_path}/evil": b"x"}
    before = {*tmp_path.parent.iterdir()}
    source = pack(tmp_path / "x.tar.gz", members)
    import_hf(source, tmp_path / "deep" / "out", pretrained)
    assert {*tmp_path.parent.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "x.tar.gz"]
    assert sorted(path.name for path in (tmp_path / "deep").rglob("*")) == sorted(["out", "model.pt", "dict.txt", *BPE])


def test_what_does_not_belong(tmp_path: Path, contents: dict[str, bytes], pretrained: Path) -> None:
    out = tmp_path / "out"

    def problem(members: dict[str, bytes]) -> str:
        return refused(pack(tmp_path / "x.tar.gz", members), out, pretrained)

    own = "; take fairseq's own tarball"
    parts = "expected model.pt and dict.txt, as fairseq's releases have, found no "
    assert problem({}) == f"{parts}model.pt{own}"
    assert problem({"model.pt": contents["model.pt"]}) == f"{parts}dict.txt{own}"
    assert problem({**contents, "b/dict.txt": b""}) == f"expected one dict.txt, found two{own}"
    cut = {**contents, "dict.txt": contents["dict.txt"].partition(b"\n")[2]}
    assert problem(cut) == f"expected dict.txt of 600 rows, as the weights have, found dict.txt of 599{own}"
    assert problem({**contents, "model.pt": b"no checkpoint"}).startswith("cannot be read as a checkpoint, 13 bytes (")
    many = {f"{number}": b"" for number in range(1001)}
    assert problem({**many, **contents}) == f"expected at most 1,000 files, found more{own}"


def claiming(size: int, kind: bytes, name: str = "dict.txt") -> Callable[[tarfile.TarFile], None]:
    """A member that claims to be larger than it is."""

    def edit(archive: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.type = size, kind
        assert archive.fileobj is not None
        archive.fileobj.write(entry.tobuf(tarfile.GNU_FORMAT))

    return edit


def test_sizes_that_are_claimed(tmp_path: Path, contents: dict[str, bytes], pretrained: Path) -> None:
    """Neither memory nor disk is taken for what a header says, or for what little bytes unpack to."""
    source, out = tmp_path / "x.tar.gz", tmp_path / "out"
    own = "; take fairseq's own tarball"
    pack(source, contents, claiming(1 << 40, tarfile.REGTYPE))
    assert refused(source, out, pretrained) == f"expected dict.txt of at most 64 MB, found one of {2**40:,} bytes{own}"
    most = f"expected at most {64 << 20:,} bytes, found more, or a header that claims so{own}"
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        pack(source, contents, claiming(1 << 33, kind))
        assert refused(source, out, pretrained) == most
    pack(source, contents, claiming(1 << 36, tarfile.REGTYPE, "other"))
    assert refused(source, out, pretrained) == most
    pack(source, {"model.pt": bytes(90 << 20)})
    assert source.stat().st_size < 1 << 20
    assert refused(source, out, pretrained) == most


def test_cut_or_changed_anywhere(tmp_path: Path, contents: dict[str, bytes], pretrained: Path) -> None:
    """An error of ours in each case, and nothing is left; or, where nothing that matters is hit, the same weights."""
    whole = pack(tmp_path / "whole.tar.gz", contents).read_bytes()
    source, out, found = tmp_path / "x.tar.gz", tmp_path / "out", set()
    chance = random.Random(3)
    plain = gzip.decompress(whole)
    for number in range(120):
        content = bytearray(plain if number % 2 else whole)
        if number % 3:
            content[chance.randrange(len(content) if number % 4 else 600)] ^= 1 << chance.randrange(8)
        else:
            del content[chance.randrange(2, len(content)) :]
        source.write_bytes(content)
        try:
            release.import_release(source, out, pretrained)
            (out / "model.pt").unlink()
            found.add("fine")
        except ClozeError:
            found.add("refused")
        assert not (out / "model.pt").exists()
    assert found == {"fine", "refused"}


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    for name in ("roberta.tar.gz", "model.pt"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        with pytest.raises(CheckpointError) as error:
            open_checkpoint(tmp_path / name)
        assert str(error.value) == (
            f"{tmp_path / name}: is a pointer of git lfs, not the file itself; run 'git lfs pull' in its folder, or "
            "download it"
        )
