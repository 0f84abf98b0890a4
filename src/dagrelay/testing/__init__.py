"""What tests of stores, DAGs and runtimes are made of (floor 10)."""
