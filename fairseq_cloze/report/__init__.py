"""Report: runs side by side on one page."""
