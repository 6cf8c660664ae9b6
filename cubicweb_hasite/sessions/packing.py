"""How sessions are turned into bytes: pickled, and compressed if they are too long without.

What stock CubicWeb can store is written as stock CubicWeb writes it. So a former version reads it:
during a rolling upgrade, visitors who go from one process to another stay logged in.

Whoever knows the secret that signs the bytes can make the processes execute any code, since to
read a pickle is to execute it. That is so with stock CubicWeb too.
"""

import pickle
import zlib
from typing import Any

from webob.cookies import SignedSerializer

_PICKLE = b"\x80"  # which a pickle begins with, and a compressed one does not


def signed(secret: str, salt: str, *, plain: int, limit: int) -> SignedSerializer:
    """Return a serializer whose method `loads` accepts only what `dumps` has signed.

    `dumps` raises :class:`ValueError` if the value is too long, `loads` for any other text than
    it has written.

    :param salt: what it is used for, so that nothing else with the same secret is accepted
    :param plain: up to how many bytes a pickle is not compressed
    :param limit: the longest pickle that is written and read, in bytes
    """
    return SignedSerializer(secret, salt, "sha512", serializer=_Packing(plain, limit))


class _Packing:
    def __init__(self, plain: int, limit: int) -> None:
        self._plain = plain
        self._limit = limit

    def dumps(self, value: Any) -> bytes:
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        if len(data) > self._limit:
            raise ValueError(f"more than {self._limit} bytes")
        return data if len(data) <= self._plain else zlib.compress(data, 9)

    def loads(self, packed: bytes) -> Any:
        try:
            return pickle.loads(packed if packed.startswith(_PICKLE) else self._expand(packed))
        except Exception as error:  # any, of classes that are not there any more
            raise ValueError(f"not a session: {error}") from error

    def _expand(self, packed: bytes) -> bytes:
        expander = zlib.decompressobj()
        data = expander.decompress(packed, self._limit + 1)
        if len(data) > self._limit or not expander.eof:
            raise ValueError(f"more than {self._limit} bytes, or truncated")
        return data
