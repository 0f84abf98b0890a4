"""One attempt, one run, the whole (floor 9)."""
