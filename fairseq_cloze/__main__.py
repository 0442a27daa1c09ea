"""``python -m fairseq_cloze``: the command line, for launchers that start modules (``torchrun -m fairseq_cloze``)."""

from .cli import main

main(prog_name="fairseq-cloze")
