"""Run log: any command under a log."""
