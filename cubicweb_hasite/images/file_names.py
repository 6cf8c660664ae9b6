"""The name under which a download is saved (RFC 6266)."""

import re
import unicodedata
from urllib.parse import quote

# all but ASCII, what Windows refuses in names, and what browsers read differently in quotes
_REFUSED = re.compile(r"""[^ !#$&'()+,\-.0-9;=@A-Z\[\]^_`a-z{}~]""")
_MAX_NAME = 200


def content_disposition(file_name: str, *, inline: bool) -> str:
    """Return the value of Content-Disposition for a file name (RFC 6266 and RFC 8187).

    The fallback for programs that do not know `filename*` has no character that a file system
    refuses: letters lose their accents, and what is left of others becomes `_`.
    """
    printable = "".join(char for char in file_name if char.isprintable())
    name = printable.replace("/", "_").replace("\\", "_")[-_MAX_NAME:] or "file"
    bare = "".join(
        char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char)
    )
    fallback = _REFUSED.sub("_", bare)
    value = f'{"inline" if inline else "attachment"}; filename="{fallback}"'
    if fallback != name:
        value += f"; filename*=UTF-8''{quote(name, safe='')}"
    return value
