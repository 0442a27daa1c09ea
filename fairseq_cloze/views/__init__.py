"""Views: stored passages become batches."""
