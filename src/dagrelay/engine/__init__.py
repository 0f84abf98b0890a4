"""A run as values: events in, commands out (floor 5, pure)."""
