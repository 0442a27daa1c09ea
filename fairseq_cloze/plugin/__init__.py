"""Plugin: the only room that knows fairseq."""
