"""A command of fairseq or of this project in a process whose memory really runs out.

    python limited.py MEGABYTES fairseq-train ...

The limit is set when the model is first called, to what the process has then and MEGABYTES more, so it does not depend
on the size of torch.  It is of data, as address space is also set aside without being used.  ``FIXED_MMAP``, which the
parent sets, gives memory back at once.
"""

from __future__ import annotations

import importlib
import resource
import sys
from typing import Any

ENTRIES = {
    "fairseq-train": ("fairseq_cli.train", "cli_main"),
    "fairseq-validate": ("fairseq_cli.validate", "cli_main"),
    "fairseq-cloze": ("fairseq_cloze.cli", "main"),
}

#: Every tensor of note is its own mapping, so that what is free is free; and oneDNN, which compiles products anew for
#: each length of a row, keeps few of them.
FIXED_MMAP = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16",
}


def limit(megabytes: float) -> None:
    """Allow that much more data than there is."""
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmData:")]
    allowed = int(line.split()[1]) * 1024 + int(megabytes * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def main() -> None:
    """Run the command."""
    from fairseq_cloze import register

    register()
    # torch imports it at its first check of a mask, and an import that breaks off half-way is not made up for.
    importlib.import_module("torch.fx.experimental.symbolic_shapes")
    from fairseq.models.roberta import RobertaModel

    from fairseq_cloze.model.masked_lm import MaskedLM
    from fairseq_cloze.plugin.model import ClozeRobertaModel

    megabytes, limited = float(sys.argv[1]), False

    def limiting(plain: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal limited
            if not limited:
                limit(megabytes)
            limited = True
            return plain(*args, **kwargs)

        return forward

    kinds: tuple[Any, ...] = (ClozeRobertaModel, RobertaModel, MaskedLM)
    for kind in kinds:
        kind.forward = limiting(kind.forward)
    MaskedLM.at_reads = limiting(MaskedLM.at_reads)  # type: ignore[method-assign]
    module, function = ENTRIES[sys.argv[2]]
    sys.argv = sys.argv[2:]
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    main()
