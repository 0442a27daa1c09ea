"""Generation: passages from prose."""
