"""Images that get a new eid when they are edited: replacement, downloads, former URLs."""
