"""``fairseq-cloze export-hf``"""

import click


@click.command("export-hf")
@click.argument("checkpoint")
@click.option("--out", required=True, metavar="DIR", help="Folder to write.")
def command(checkpoint: str, out: str) -> None:
    """Turn a fairseq checkpoint into a Hugging Face folder."""
    from ..weights.checkpoint import Checkpoint
    from ..weights.hugging_face import export_hf

    name = export_hf(Checkpoint.read(checkpoint), out)
    click.echo(f"wrote {out}, load it with transformers.{name}.from_pretrained")
