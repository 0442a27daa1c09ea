"""Names: what fairseq calls the parts of a masked LM in its checkpoints."""

ENCODER = "encoder.sentence_encoder."
LM_HEAD = "encoder.lm_head."
HEADS = "classification_heads."

#: The architecture that takes its shape from the checkpoint, whatever that is.
ANY_ARCHITECTURE = "cloze_lm"

#: The ranking head, which scores a filled text.
HEAD_NAME = "cloze_ranking"
RANKING_HEAD = f"{HEADS}{HEAD_NAME}."
