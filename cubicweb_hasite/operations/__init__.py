"""What operators do to a running instance."""
