"""Bytes that are kept outside of the database, in files or in a bucket of S3: what if they fail.

CubicWeb's storages (cubicweb.server.sources.storages, cubicweb-s3storage) say None for what they
cannot read, as for what is not there, and wait for S3 up to minutes.
"""
