"""Mailboxes, calls and casts (floor 7)."""
