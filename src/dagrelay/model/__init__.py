"""The vocabulary: states, records, events and policies (floor 1, pure)."""
