"""Real servers, wrapped as small objects: start, stop, kill, pause, wait."""
