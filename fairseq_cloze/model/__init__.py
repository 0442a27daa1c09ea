"""Model: attention, encoder, heads, and a score per candidate, as plain torch modules."""
