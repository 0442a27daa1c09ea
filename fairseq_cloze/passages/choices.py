"""What may be chosen by name where passages are read or made; light, as the help of commands names it."""

TEXT_NORMS = ("standard", "none")

#: Languages whose writing differs; ``en`` stands for all that put spaces between words, and none before punctuation.
LANGUAGES = ("en", "fr", "zh")

#: What passages are converted from.
FORMATS = ("sheet", "table", "json", "cloze", "gift", "xml", "parquet", "datasets")

#: What answers are converted to.
ANSWER_KINDS = ("key", "sheet")
