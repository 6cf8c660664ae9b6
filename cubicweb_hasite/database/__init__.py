"""Connections to the database that heal, and what visitors are answered when there is none."""
