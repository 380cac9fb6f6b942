"""aiohttp, imported without the authorities of this machine.

aiohttp makes a TLS context at its import, for requests that name none, and reads every authority of the machine into
it: about 50 ms, an eighth of an agent's start. Each request of ours over TLS names a context of its own, so aiohttp's
gets nobody to trust; a request that relied on it would be refused, not let through.

Who is the first of a program to import aiohttp takes it from here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["aiohttp"]

_NOBODY = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
"""OpenSSL's own words for where authorities are."""


@contextlib.contextmanager
def _trusting_nobody() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _NOBODY}
    os.environ.update(_NOBODY)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _trusting_nobody():
    import aiohttp
