"""An application without cubicweb-web, whose front end is elsewhere."""
