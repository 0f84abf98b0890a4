"""Where runs and their values are kept (floor 6)."""
