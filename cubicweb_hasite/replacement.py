"""What applications may import to have their own edits replace images."""

from cubicweb_hasite.images.replacement import track

__all__ = ["track"]
