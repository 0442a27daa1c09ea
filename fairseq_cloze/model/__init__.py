"""Model: attention, encoder, heads, and a score per candidate, as plain torch modules."""

import os

# On a CPU oneDNN keeps 1,024 products, one for each length of a row.  They lie between the tensors, which then
# fit into fewer and fewer gaps: memory grew to twice of what is needed (docs/decisions.md).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
