"""Ranking: weights at work."""
