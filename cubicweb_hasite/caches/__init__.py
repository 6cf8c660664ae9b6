"""What shared caches may keep, and how they are told of changes."""
