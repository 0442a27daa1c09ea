"""The weights that a training starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.training.calibrating import calibrated
from fairseq_cloze.training.plan import Device, Given

CPU, GPU = Device(), Device("GPU", 1)


def test_on_a_gpu_another_process_writes_the_same(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """It says the same, too."""
    found = []
    for name, device in (("here", CPU), ("there", GPU)):
        (tmp_path / name).mkdir()
        said: list[str] = []
        path = calibrated(data_bin, pretrained / "model.pt", tmp_path / name, Given([]), device, said.append)
        assert path == tmp_path / name / "calibrated.pt"
        found.append((path.read_bytes(), said[:3]))
    assert found[0] == found[1]
    (tmp_path / "there" / "calibrated.pt").unlink()
    with pytest.raises(ClozeError, match="calibrating failed: .*no-weights.pt"):
        calibrated(data_bin, tmp_path / "no-weights.pt", tmp_path / "there", Given([]), GPU, said.append)


def test_it_is_done_once(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    said: list[str] = []
    arguments = (data_bin, pretrained / "model.pt", tmp_path, Given([]), CPU, said.append)
    assert calibrated(*arguments) == calibrated(*arguments) == tmp_path / "calibrated.pt"
    assert said[0] == "calibrating the LM head (docs/training.md#calibration)" and len(said) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--view", "full"), ["the LM head is not calibrated: --view full was given"]),
        (("--scorer=kmask",), ["the LM head is not calibrated: --scorer kmask was given"]),
        (("--contrast", "0.7"), ["the LM head is not calibrated: --contrast 0.7 was given"]),
        (("--from-scratch",), []),
        (("--restore-file", "a.pt"), []),
    ],
)
def test_who_chooses_otherwise_gets_the_weights_as_they_are(
    words: tuple[str, ...], said: list[str], tmp_path: Path
) -> None:
    told: list[str] = []
    assert calibrated(tmp_path / "bin", tmp_path / "model.pt", tmp_path, Given(words), CPU, told.append) is None
    assert told == said


def test_a_training_that_began_without_goes_on_without(tmp_path: Path) -> None:
    (tmp_path / "seed1" / "checkpoints").mkdir(parents=True)
    (tmp_path / "seed1" / "checkpoints" / "checkpoint_last.pt").touch()
    told: list[str] = []
    assert calibrated(tmp_path / "bin", tmp_path / "model.pt", tmp_path, Given([]), CPU, told.append) is None
    assert told == ["the LM head is not calibrated: this training began without"]
