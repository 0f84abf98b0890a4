"""What the user writes, compiled to an immutable plan (floor 4, pure)."""
