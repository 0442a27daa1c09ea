"""Settings that a checkpoint carries, as JSON: complete ones, or an error that names the option."""

import json
from typing import Any

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.jsontext import NotJson, parse_json
from fairseq_cloze.views.settings import CARRIED, OTHER_BLANKS, SCORERS, VIEWS, PartialSettings


def seeds() -> list[bytes]:
    sheets: tuple[dict[str, Any], ...] = (
        {"view": "joint", "scorer": "kmask", "other_blanks": "mask", "contrast": 0.5},
        {"view": "full", "scorer": "head", "other_blanks": "gold", "contrast": 1},
        {"view": "neighbors", "scorer": None},
        {},
    )
    return [json.dumps(sheet).encode() for sheet in sheets]


def attack(data: bytes) -> None:
    try:
        sheet = parse_json(data)
    except NotJson as error:
        str(error).encode()
        return
    values = {name: sheet.get(name) for name in CARRIED} if isinstance(sheet, dict) else dict.fromkeys(CARRIED, sheet)
    for chosen in (PartialSettings(), PartialSettings(**values), PartialSettings(view="full")):
        try:
            settings = chosen.completed(PartialSettings(**values))
        except ClozeError as error:
            assert any(f"--{name.replace('_', '-')}" in str(error) for name in CARRIED)
            continue
        assert settings.view in VIEWS and settings.scorer in SCORERS and settings.other_blanks in OTHER_BLANKS
        assert 0 <= settings.contrast <= 1
