"""Mail that arrives once, or waits."""
