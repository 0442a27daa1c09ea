"""Watch: checkpoints scored as they come."""
