"""Certificates on disk: each with its key in one PEM, found by a symlink that is replaced as a whole.

`{prefix}-current.pem` → `{prefix}-2026-11-23-10-00-00-000000.pem`. Whoever opens it sees a certificate and its own
key, never a mix. A key whose certificate is still awaited lies in `{prefix}.key.tmp`, so that a second try asks for
the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wasmlet.base.errors import UserError
from wasmlet.base.files import read_if_present, write_atomically

__all__ = ["Store"]

KEPT = 1
"""Former pairs that stay, for whoever has just read the link."""


@dataclass(frozen=True, slots=True)
class Store:
    """The certificates of one purpose.

    Attributes:
        directory: Made when missing, for its owner only.
        prefix: `wasmlet-client` or `wasmlet-server`.
    """

    directory: Path
    prefix: str

    @property
    def current(self) -> Path:
        """The symlink; it may be missing."""
        return self.directory / f"{self.prefix}-current.pem"

    @property
    def _pending(self) -> Path:
        return self.directory / f"{self.prefix}.key.tmp"

    def load(self) -> bytes | None:
        """The current pair; None when there is none."""
        return read_if_present(self.current)

    def save(self, certificate_pem: bytes, key_pem: bytes, *, now: float, is_awaiting: bool = False) -> Path:
        """Make a pair the current one, and forget the awaited key.

        Args:
            is_awaiting: The pair only stands in: the awaited key stays.

        Raises:
            UserError: The directory cannot be written.
        """
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d-%H-%M-%S-%f")
        pair = self.directory / f"{self.prefix}-{stamp}.pem"
        with self._writing():
            former = self._files()
            write_atomically(pair, certificate_pem.rstrip() + b"\n" + key_pem, mode=0o600)
            link = self.directory / f".{self.prefix}-current.{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(pair.name)
            link.replace(self.current)
            if not is_awaiting:
                self.forget_key()
            for each in former[: len(former) - KEPT]:
                each.unlink(missing_ok=True)
        return self.current

    def awaited_key(self, make: bytes) -> bytes:
        """The key whose certificate is awaited; when there is none, `make` becomes it.

        Raises:
            UserError: The directory cannot be written.
        """
        with self._writing():
            known = read_if_present(self._pending)
            if known:
                return known
            write_atomically(self._pending, make, mode=0o600)
        return make

    def forget_key(self) -> None:
        """The awaited key is used, or refused."""
        self._pending.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """All pairs, the oldest first."""
        current = self.current.name
        return sorted(each for each in self.directory.glob(f"{self.prefix}-2*.pem") if each.name != current)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise UserError(f"cannot keep certificates in {self.directory}: {error.strerror}") from error
