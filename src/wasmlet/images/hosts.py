"""Who answers for a registry: mirrors and the registry itself, with their TLS, from containerd's `hosts.toml`.

    {directory}/{host[:port]}/hosts.toml     of one registry, named as references name it
    {directory}/_default/hosts.toml          of every registry that has none of its own

The format is containerd's (docs/hosts.md there): `server`, and tables `[host."https://mirror"]` in the order in which
they are asked; the server comes last. Both take `capabilities`, `ca`, `client`, `skip_verify`, `override_path`,
`header`. Two things are narrower here: pushes go to the server only, and a key that is not known is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from wasmlet.base.errors import UserError
from wasmlet.base.files import read_if_present
from wasmlet.images.tls import Tls

Capability = Literal["resolve", "pull", "push"]

FILE_NAME: Final = "hosts.toml"
DEFAULT_DIRECTORY: Final = "_default"
_CAPABILITIES: Final[tuple[Capability, ...]] = ("resolve", "pull", "push")
_KEYS: Final = frozenset({"capabilities", "ca", "client", "skip_verify", "override_path", "header"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that answers for a registry.

    Attributes:
        base: The URL below which repositories lie, without a slash at its end: `https://host/v2`.
        tls: As told; the node's own settings are added to it.
        headers: Sent with each request to this origin, and to no other.
        capabilities: What it may be asked for.
        mirrors: The registry in whose place it stands; "" for the registry itself.
    """

    base: str
    tls: Tls = field(default_factory=Tls)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    capabilities: frozenset[Capability] = frozenset(_CAPABILITIES)
    mirrors: str = ""

    @property
    def host(self) -> str:
        """`host[:port]`, for messages."""
        return urlsplit(self.base).netloc


@dataclass(frozen=True, slots=True)
class Hosts:
    """What a hosts.toml says.

    Attributes:
        mirrors: In the order in which they are asked.
        server: The registry itself; None leaves it to the reference. `Endpoint.base` is "" where the file says how
            to speak to it but not where it is.
    """

    mirrors: tuple[Endpoint, ...] = ()
    server: Endpoint | None = None


def load(directory: Path, registry: str) -> Hosts:
    """What is said of a registry (`host[:port]`).

    Raises:
        UserError: The file cannot be read, or says something that cannot be; the message names it.
    """
    for name in (registry, DEFAULT_DIRECTORY):
        path = directory / name / FILE_NAME
        try:
            content = read_if_present(path)
            if content is not None:
                return parse(tomllib.loads(content.decode()), registry=registry, directory=path.parent)
        except NotADirectoryError:
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"cannot use {path}: {error}", hint="docs/reference/images.md has its format") from error
    return Hosts()


def parse(document: dict[str, Any], *, registry: str, directory: Path) -> Hosts:
    """As `load`; paths in the document count from `directory`.

    Raises:
        ValueError: The document says something that cannot be.
    """
    document = dict(document)
    tables = _take(document, "host", dict, {})
    server = _take(document, "server", str, "")
    mirrors = []
    for url, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"host {url!r} is no table")
        mirrors.append(_endpoint(url, table, directory, mirrors=registry))
    own = _endpoint(server, document, directory, mirrors="") if server or document else None
    return Hosts(tuple(mirrors), own)


def _endpoint(url: str, table: dict[str, Any], directory: Path, *, mirrors: str) -> Endpoint:
    if unknown := sorted(table.keys() - _KEYS):
        raise ValueError(f"unknown key {unknown[0]!r}")
    capabilities = _take(table, "capabilities", list, list(_CAPABILITIES))
    if any(each not in _CAPABILITIES for each in capabilities):
        raise ValueError(f"capabilities of {url!r} are among {', '.join(_CAPABILITIES)}")
    return Endpoint(
        base=_base(url, override_path=_take(table, "override_path", bool, False)) if url else "",
        tls=Tls(
            ca_files=tuple(directory / each for each in _texts(table.get("ca", []), "ca")),
            client=_client(table.get("client"), directory),
            verify=not _take(table, "skip_verify", bool, False),
        ),
        headers=_headers(_take(table, "header", dict, {})),
        capabilities=frozenset(capabilities),
        mirrors=mirrors,
    )


def _base(url: str, *, override_path: bool) -> str:
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError(f"{url!r} is no URL of a registry")
    path = parts.path.rstrip("/")
    if not override_path and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _client(value: object, directory: Path) -> tuple[Path, Path] | None:
    """Containerd takes one file, a list of them, or a list of pairs; here it is one certificate."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    files = _texts(value, "client")
    if len(files) not in (1, 2):
        raise ValueError('client is one file, or one pair: client = [["client.pem", "client.key"]]')
    return directory / files[0], directory / files[-1]


def _headers(table: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in table.items():
        text = ", ".join(_texts(value, "header"))
        if not (f"{name}{text}".isprintable() and f"{name}{text}".isascii()):
            raise ValueError("a header has printable ASCII characters")
        found[name] = text
    return found


def _texts(value: object, name: str) -> list[str]:
    texts: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) and each for each in texts):
        raise ValueError(f"{name} is a text or a list of texts")
    return texts


def _take(table: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = table.pop(name, default) if name in ("host", "server") else table.get(name, default)
    if not isinstance(value, kind):
        raise ValueError(f"{name} is not a {kind.__name__}")
    return value
