"""Ed25519ph (RFC 8032, section 5.1.7): the form in which cosign signs with Ed25519 keys, which `cryptography` has not.

Verifying alone: everything in it is public, so how long it takes may tell what it likes (4 ms).
"""

from __future__ import annotations

from hashlib import sha512
from typing import Final

_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE: Final = pow(2, (_P - 1) // 4, _P)
_PREFIX: Final = b"SigEd25519 no Ed25519 collisions\x01\x00"
"""dom2(1, ""): prehashed, no context."""

Point = tuple[int, int, int, int]
"""x = X/Z, y = Y/Z, x·y = T/Z."""

_NEUTRAL: Final[Point] = (0, 1, 1, 0)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature is over `message` by the key with these 32 bytes."""
    if len(public) != 32 or len(signature) != 64:
        return False
    point, scalar = _decoded(public), int.from_bytes(signature[32:], "little")
    if point is None or scalar >= _L:
        return False
    hashed = sha512(_PREFIX + signature[:32] + public + sha512(message).digest()).digest()
    factor = int.from_bytes(hashed, "little") % _L
    x, y, z, t = point
    return _encoded(_sum(_times(scalar, _BASE), _times(factor, (-x % _P, y, z, -t % _P)))) == signature[:32]


def _sum(first: Point, second: Point) -> Point:
    """Section 5.1.4."""
    a = (first[1] - first[0]) * (second[1] - second[0]) % _P
    b = (first[1] + first[0]) * (second[1] + second[0]) % _P
    c = 2 * first[3] * second[3] * _D % _P
    d = 2 * first[2] * second[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(factor: int, point: Point) -> Point:
    total = _NEUTRAL
    while factor:
        if factor & 1:
            total = _sum(total, point)
        point, factor = _sum(point, point), factor >> 1
    return total


def _decoded(encoded: bytes) -> Point | None:
    """Section 5.1.3; None for bytes that are no point."""
    number = int.from_bytes(encoded, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
    if (x * x - square) % _P or (sign and not x):
        return None
    x = -x % _P if x & 1 != sign else x
    return x, y, 1, x * y % _P


def _encoded(point: Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _base() -> Point:
    found = _decoded((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    assert found is not None
    return found


_BASE: Final = _base()
