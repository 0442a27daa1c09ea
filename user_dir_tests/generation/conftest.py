from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.passages.text import BLANK

from ..support.commands import PASSAGES


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the texts of the example passages, the right words filled in, a line per paragraph."""
    folder = tmp_path_factory.mktemp("prose")
    for split in ("train", "valid"):
        with open(folder / f"{split}.txt", "w", encoding="utf-8") as out:
            for passage in read_passages([PASSAGES / split]):
                segments = BLANK.split(passage.article)
                for segment, options, gold in zip(segments, passage.candidates, passage.gold):
                    out.write(segment + options[gold])
                out.write(segments[-1] + "\n")
    return folder
