"""Runs: what a training leaves in its save-dir, for those who look on."""
