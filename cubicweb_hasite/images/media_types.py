"""What an image is: media types as they are written, and as they are meant.

Media types are case-insensitive and may have parameters (RFC 9110, section 8.3.1), and some images
are known by several names.
"""

import re

#: Part of the names under which thumbnails are kept. Increase it when they look differently.
THUMBNAILS_VERSION = 2

# The names registered with IANA (https://www.iana.org/assignments/media-types, or
# https://mimesniff.spec.whatwg.org for those that are not), by the other names that browsers,
# operating systems and scripts give.
_ALIASES = {
    "image/ico": "image/vnd.microsoft.icon",
    "image/icon": "image/vnd.microsoft.icon",
    "image/jfif": "image/jpeg",
    "image/jpe": "image/jpeg",
    "image/jpg": "image/jpeg",
    "image/pipeg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/svg": "image/svg+xml",
    "image/svg-xml": "image/svg+xml",
    "image/tif": "image/tiff",
    "image/vnd.mozilla.apng": "image/apng",
    "image/x-apng": "image/apng",
    "image/x-bmp": "image/bmp",
    "image/x-citrix-jpeg": "image/jpeg",
    "image/x-citrix-png": "image/png",
    "image/x-gif": "image/gif",
    "image/x-ico": "image/vnd.microsoft.icon",
    "image/x-icon": "image/vnd.microsoft.icon",
    "image/x-jpeg": "image/jpeg",
    "image/x-jpg": "image/jpeg",
    "image/x-ms-bmp": "image/bmp",
    "image/x-png": "image/png",
    "image/x-tif": "image/tiff",
    "image/x-tiff": "image/tiff",
    "image/x-webp": "image/webp",
    "image/x-windows-bmp": "image/bmp",
}
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)
# What browsers show in a page, and run nothing of: so no SVG.
_SHOWN = {
    f"image/{subtype}"
    for subtype in ("apng", "avif", "bmp", "gif", "jpeg", "png", "vnd.microsoft.icon", "webp")
}
_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([\w.:+-]{1,40})"?\s*(?:;|$)""", re.I | re.ASCII)


def canonical(written: str | None) -> str:
    """Return a media type in its usual form, without parameters; "" if it is none."""
    name = (written or "").partition(";")[0].strip().lower()
    return _ALIASES.get(name, name) if _MEDIA_TYPE.fullmatch(name) else ""


def is_image(written: str | None) -> bool:
    """Return whether a media type is that of an image."""
    return canonical(written).startswith("image/")


def is_shown(written: str | None) -> bool:
    """Return whether browsers may show data of a media type, because they run nothing in it."""
    return canonical(written) in _SHOWN


def charset(written: str | None) -> str | None:
    """Return the parameter `charset` of a media type, None if it has none."""
    match = _CHARSET.search(written or "")
    return match[1] if match else None
