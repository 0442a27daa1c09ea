"""Hub push: an exported folder onto the Hugging Face hub."""

import re
from typing import Any

from ..errors import ClozeError, first_line, printable
from ..files import PathLike
from ..secrecy import hide_secrets
from .hub_files import CONFIG, SAFETENSORS
from .hub_tokenizer_files import TOKENIZER_FILES
from .model_card import CARD

_PART = r"(?!.*(?:--|\.\.|\.git$))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_PART}/)?{_PART}")


class Hub:
    """A name on the hub, to which somebody who is logged in may push.

    Raises:
        ClozeError: ``huggingface_hub`` is not installed, nobody is logged in, or the name cannot be one
    """

    def __init__(self, name: str) -> None:
        self.name = name
        if not _NAME.fullmatch(name):
            raise ClozeError(f"--push: expected a name such as me/my-model, found '{printable(name)}'")
        try:
            import huggingface_hub
        except ImportError as error:
            raise ClozeError("--push: needs huggingface_hub; run: pip install huggingface_hub") from error
        if huggingface_hub.get_token() is None:
            raise ClozeError(
                "--push: you are not logged in to the Hugging Face hub; run 'hf auth login', or set HF_TOKEN"
            )
        self._api: Any = huggingface_hub.HfApi(library_name="fairseq-cloze")
        try:
            self._api.whoami()
        except Exception as error:  # the hub's own kinds and those of the network below it
            raise self._failed(
                error, "run 'hf auth login' with a token that may write, or look at the network"
            ) from error

    def push(self, folder: PathLike, private: bool = True) -> str:
        """Upload an exported folder in one commit, without tokenizer files of a former one, and return its address.

        Args:
            folder: what :func:`fairseq_cloze.weights.hugging_face.export_hf` wrote
            private: who may see it, if it is new: only its owner

        Raises:
            ClozeError: the hub does not take it; what is in *folder* stays
        """
        try:
            place = self._api.create_repo(self.name, private=private, exist_ok=True)
            self._api.upload_folder(
                repo_id=place.repo_id,
                folder_path=str(folder),
                commit_message="Export of fairseq-cloze",
                allow_patterns=[CONFIG, SAFETENSORS, CARD, *TOKENIZER_FILES],
                delete_patterns=list(TOKENIZER_FILES),
            )
        except Exception as error:  # as above
            raise self._failed(error, f"{folder} is written; give the command again, or upload that folder") from error
        return str(place)

    def _failed(self, error: Exception, advice: str) -> ClozeError:
        return ClozeError(f"--push: the hub does not take {self.name} ({hide_secrets(first_line(error))}); {advice}")
