"""The command line: run DAGs, and look at what a store remembers of them (floor 10)."""
