"""The kubelet's credential provider plugins: programs of clouds that know a login for their registries (contract 9).

Their configuration is the kubelet's own (`CredentialProviderConfig`, kubelet.config.k8s.io/v1), as is the exec API
(credentialprovider.kubelet.k8s.io/v1): a request on standard input, a response on standard output, kept as long as it
says. Rules and keys are those of pkg/credentialprovider/plugin in Kubernetes 1.36.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from wasmlet.base import programs
from wasmlet.base.errors import UserError, WasmletError
from wasmlet.base.flights import Flight, Flights
from wasmlet.images.credentials import Credential, Origin, matches
from wasmlet.images.reference import Reference
from wasmlet.images.sources import Account

__all__ = ["Plugin", "load_plugins", "parse_duration"]

PLUGIN_SECONDS: Final = 60.0
MAX_ANSWER_BYTES: Final = 1 << 20
MAX_KEPT: Final = 1024
_GROUP: Final = "credentialprovider.kubelet.k8s.io"
_VERSIONS: Final = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1", f"{_GROUP}/v1alpha1")
_CONFIG_GROUP: Final = "kubelet.config.k8s.io/"
_GLOBAL: Final = "global"
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_log = logging.getLogger(__name__)


class Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An environment variable of a plugin, beside the agent's own."""

    name: str
    value: str


class TokenAttributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Which token of the pod's service account a plugin gets."""

    service_account_token_audience: str
    require_service_account: bool
    cache_type: Literal["ServiceAccount", "Token"]
    required_service_account_annotation_keys: tuple[str, ...] = ()
    optional_service_account_annotation_keys: tuple[str, ...] = ()


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One plugin, as its configuration has it."""

    name: str
    match_images: tuple[str, ...]
    default_cache_duration: str
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    token_attributes: TokenAttributes | None = None


class _Config(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    kind: Literal["CredentialProviderConfig"]
    api_version: str
    providers: tuple[Provider, ...]


class _Login(msgspec.Struct):
    username: str = ""
    password: str = ""


class _Response(msgspec.Struct, rename="camel"):
    kind: Literal["CredentialProviderResponse"]
    api_version: str
    cache_key_type: Literal["Image", "Registry", "Global"]
    cache_duration: str | None = None
    auth: dict[str, _Login] | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    logins: tuple[Credential, ...]
    until: float


@dataclass(frozen=True, slots=True)
class _Caller:
    """Whom a plugin is asked for: `key` tells service accounts (or tokens) apart in what is kept."""

    key: str = ""
    origin: Origin | None = None
    token: str = ""
    annotations: Mapping[str, str] | None = None


def load_plugins(configuration: Path, programs_directory: Path) -> tuple[Plugin, ...]:
    """The plugins of a configuration file, or of a directory's `.json`, `.yaml` and `.yml` files in order.

    Raises:
        UserError: It cannot be read or used, or a program is missing.
    """
    paths = [configuration]
    if configuration.is_dir():
        paths = sorted(each for each in configuration.iterdir() if each.suffix in (".json", ".yaml", ".yml"))
    providers = [provider for path in paths for provider in _read(path)]
    names = [each.name for each in providers]
    if len(set(names)) < len(names) or not names:
        raise UserError(f"{configuration} must name plugins, each once")
    for each in names:
        if not os.access(programs_directory / each, os.X_OK):
            raise UserError(
                f"the credential provider {each} is no program in {programs_directory}",
                hint="see image-credential-provider-bin-dir",
            )
    return tuple(Plugin(each, programs_directory) for each in providers)


def parse_duration(text: str) -> float:
    """Seconds of a duration as Go writes it (`1h30m`, `12h0m0s`, `0`).

    Raises:
        ValueError: It is none.
    """
    parts = _DURATION.findall(text)
    if text != "0" and (not parts or "".join(f"{number}{unit}" for number, unit in parts) != text):
        raise ValueError(f"{text!r} is no duration")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Plugin:
    """One plugin and what it said lately."""

    def __init__(self, provider: Provider, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._provider = provider
        self._program = directory / provider.name
        self._clock = clock
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._asking: Flights[tuple[str, str], tuple[Credential, ...], None] = Flights("credential provider")

    def __repr__(self) -> str:
        return f"<Plugin {self._provider.name} kept={len(self._kept)}>"

    async def logins(self, reference: Reference, account: Account | None) -> tuple[Credential, ...]:
        """What the plugin says, now or lately; nothing for images that are not its, or when it fails."""
        if not any(matches(pattern, reference) for pattern in self._provider.match_images):
            return ()
        try:
            caller = await self._caller(account)
            if caller is None:
                return ()
            for key in (reference.name, reference.registry, _GLOBAL):
                kept = self._kept.get((caller.key, key))
                if kept is not None and self._clock() < kept.until:
                    return kept.logins
            return await self._asking.join(
                (caller.key, reference.name), lambda flight: self._ask(reference, caller, flight),
                label=f"{self._provider.name} for {reference.name}",
            )  # fmt: skip
        except (WasmletError, OSError, TimeoutError) as error:
            _log.warning(
                "credential provider failed",
                extra={"plugin": self._provider.name, "image": reference.name, "error": str(error)},
            )
            return ()

    async def _caller(self, account: Account | None) -> _Caller | None:
        """What it is to know of the pod's account; None: it is not to be asked for this pod."""
        wanted = self._provider.token_attributes
        if wanted is None:
            return _Caller()
        if account is None:
            return None if wanted.require_service_account else _Caller()
        uid, annotations = await account.look()
        missing = [key for key in wanted.required_service_account_annotation_keys if key not in annotations]
        if missing:
            _log.debug("service account lacks annotations of a credential provider", extra={"missing": missing})
            return None
        keys = (*wanted.required_service_account_annotation_keys, *wanted.optional_service_account_annotation_keys)
        told = {key: annotations[key] for key in keys if key in annotations}
        token = await account.token(wanted.service_account_token_audience)
        parts = [account.namespace, account.name, uid, sorted(told.items())]
        if wanted.cache_type == "Token":
            parts.append(token)
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return _Caller(key, Origin("ServiceAccount", account.namespace, account.name, uid), token, told)

    async def _ask(
        self, reference: Reference, caller: _Caller, _: Flight[tuple[Credential, ...], None]
    ) -> tuple[Credential, ...]:
        request: dict[str, object] = {"kind": "CredentialProviderRequest", "apiVersion": self._provider.api_version,
                   "image": reference.name}  # fmt: skip
        if caller.token:
            request |= {"serviceAccountToken": caller.token, "serviceAccountAnnotations": caller.annotations}
        answer = await programs.ask(
            [self._program, *self._provider.args], seconds=PLUGIN_SECONDS, most_bytes=MAX_ANSWER_BYTES,
            question=msgspec.json.encode(request),
            environment=os.environ | {each.name: each.value for each in self._provider.env},
        )  # fmt: skip
        if answer.status != 0:
            raise WasmletError(f"it ended with {answer.status}")
        return self._take(_decode(answer.output, self._provider.api_version), reference, caller)

    def _take(self, response: _Response, reference: Reference, caller: _Caller) -> tuple[Credential, ...]:
        logins = tuple(
            Credential(pattern, each.username, each.password, origin=caller.origin)
            for pattern, each in (response.auth or {}).items()
        )
        duration = response.cache_duration
        try:
            seconds = parse_duration(self._provider.default_cache_duration if duration is None else duration)
        except ValueError as error:
            raise WasmletError(f"its cacheDuration: {error}") from error
        if seconds > 0:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            keys = {"Image": reference.name, "Registry": reference.registry, "Global": _GLOBAL}
            self._kept[caller.key, keys[response.cache_key_type]] = _Kept(logins, self._clock() + seconds)
        return logins


def _decode(output: bytes, api_version: str) -> _Response:
    try:
        response = msgspec.json.decode(output, type=_Response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The parser's text might quote a password.
        raise WasmletError("it answered with something that is no CredentialProviderResponse") from None
    if response.api_version != api_version:
        raise WasmletError(f"it answered in another version than {api_version}")
    return response


def _read(path: Path) -> Sequence[Provider]:
    import yaml  # noqa: PLC0415  # few nodes have plugins

    try:
        document: Any = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
        config = msgspec.convert(document, _Config)
    except OSError as error:
        raise UserError(f"cannot read the credential providers in {path}: {error.strerror}") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise UserError(f"{path} is no CredentialProviderConfig: {error}") from error
    if not config.api_version.startswith(_CONFIG_GROUP):
        raise UserError(f"{path} is of apiVersion {config.api_version!r}, not {_CONFIG_GROUP}v1")
    for each in config.providers:
        _check(each, path)
    return config.providers


def _check(provider: Provider, path: Path) -> None:
    name = provider.name
    if not name or "/" in name or name in (".", "..") or any(each.isspace() for each in name):
        raise UserError(f"{path}: {name!r} cannot be a plugin's name")
    if not provider.match_images:
        raise UserError(f"{path}: plugin {name} has no matchImages")
    if provider.api_version not in _VERSIONS:
        raise UserError(f"{path}: plugin {name} speaks {provider.api_version!r}, not {_VERSIONS[0]}")
    try:
        parse_duration(provider.default_cache_duration)
    except ValueError as error:
        raise UserError(f"{path}: defaultCacheDuration of plugin {name}: {error}") from error
