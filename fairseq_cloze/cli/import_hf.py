"""``fairseq-cloze import-hf``"""

import click


@click.command("import-hf")
@click.argument("source")
@click.option("--out", required=True, metavar="DIR", help="Folder to write model.pt and the tokenizer files into.")
@click.option("--gpt2-bpe", metavar="DIR",
              help="Folder with encoder.json, vocab.bpe and (not for a tarball) dict.txt, if SOURCE has no tokenizer "
              "files.")  # fmt: skip
def command(source: str, out: str, gpt2_bpe: str | None) -> None:
    """Turn a masked LM of Hugging Face (RoBERTa, BERT, ALBERT, ...) or a tarball of fairseq into weights for fairseq.

    What was made of it is compared with SOURCE on a fixed text: token ids, and logits where transformers is installed.
    SOURCE is a local folder, or the name of a model on the hub where huggingface_hub is installed; or fairseq's
    roberta.large.tar.gz and the like.
    """
    from ..weights.hugging_face import import_hf

    click.echo(f"wrote {import_hf(source, out, gpt2_bpe, click.echo)}")
