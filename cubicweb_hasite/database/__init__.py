"""Connections to the database that heal, and the response when there is no connection."""
