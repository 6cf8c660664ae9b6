"""A site's servers from its site file: the model, what is rendered from it, its validation.

Imports nothing of the cube's run-time side: a site is rendered on a machine without a database.
"""
