"""Passages: text becomes checked passages."""
