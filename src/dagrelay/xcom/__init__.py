"""The data-passing system: the single writer and its faces (floor 8)."""
