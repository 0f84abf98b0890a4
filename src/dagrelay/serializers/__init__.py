"""Values to bytes and back, exactly or not at all (floor 2, pure)."""
