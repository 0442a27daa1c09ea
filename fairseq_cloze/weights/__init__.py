"""Weights: files of weights, what they hold, and the proof that they were loaded."""
