"""Data: passages become a data-bin, each encoded once."""
