"""What a process remembers of the database, and forgets when another process changes it."""
