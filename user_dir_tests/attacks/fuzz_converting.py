"""Convert: any file gives passages that ``prepare`` reads, with a count for each, or an error with its place."""

import json

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.passages.converting.convert import Conversion, load
from fairseq_cloze.passages.passage import Passage

from ..support.commands import ROOT
from .scratch import written


def seeds() -> list[bytes]:
    folder = ROOT / "examples" / "sheets"
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "README.md"]


def attack(data: bytes) -> None:
    file = written(data)
    result = Conversion()
    try:
        found = list(load([file], result=result))
    except ClozeError as error:
        assert str(file) in str(error) and ("expected" in str(error) or "is taken by" in str(error))
        return
    for fields, passage in found:
        read = Passage.from_json(json.loads(json.dumps(fields)), passage.source, "")
        assert (read.id, read.candidates, read.gold) == (passage.id, passage.candidates, passage.gold)
    assert result.tally.passages == len(found)
