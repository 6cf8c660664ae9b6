"""Images under new eids: their URLs, their downloads, and what leads from a former eid."""
