"""Restore the database of a site to a moment, from its backups by pgBackRest.

Like `cubicweb_hasite.upgrades`, whose way to run commands on hosts it shares, this package imports
nothing of what runs in an instance.
"""
