"""``torchrun ... -m fairseq_cloze.plugin.hydra_train``: fairseq-hydra-train as one of several processes.

fairseq-hydra-train imports ``--user-dir`` only after it has looked for other processes, and does not find torchrun's.
"""

import importlib

from .. import register

if __name__ == "__main__":
    register()
    importlib.import_module("fairseq_cli.hydra_train").cli_main()
