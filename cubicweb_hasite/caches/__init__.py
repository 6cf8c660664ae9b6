"""Who may keep what, and who is told of changes."""
