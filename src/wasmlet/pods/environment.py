"""What a container's program is given: variables, command, arguments, working directory (contract 6.1).

The order in which a variable is decided, later wins: the image's, HOSTNAME, envFrom in order, env in order; service
variables fill only names that none of the pod's own set. `$(VAR)` sees what Kubernetes lets it see: envFrom, earlier
env entries and service variables, neither the image's nor HOSTNAME.

A text that a Secret contributed to, also by way of `$(VAR)`, is marked `secret` and shows in no `repr` and no error.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from wasmlet.base import beneath
from wasmlet.base.errors import NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.kube.objects import Objects, secret_content
from wasmlet.kube.types import Container, EnvFromSource, EnvVarSource, FileKeySelector, KeySelector, Pod, VolumeMount
from wasmlet.pods import environment_file
from wasmlet.pods.expansion import expand
from wasmlet.volumes.fields import PodFields, pod_text, resource_text
from wasmlet.volumes.volume import HostVolume

__all__ = [
    "Command",
    "EnvVar",
    "Environment",
    "Text",
    "build_command",
    "build_environment",
    "expand_sub_path",
    "working_directory",
]

REASON = "CreateContainerConfigError"

ENVIRONMENT_FILE_BYTES = 1 << 20
"""An own bound: a guest wrote the file, the agent holds it in memory."""


@dataclass(frozen=True, repr=False)
class Text:
    """A string, and whether a Secret contributed to it."""

    value: str
    secret: bool = False

    def __repr__(self) -> str:
        return "Text(<secret>)" if self.secret else f"Text({self.value!r})"


@dataclass(frozen=True, repr=False)
class EnvVar:
    """A variable of the guest; `secret` values are never logged or shown."""

    name: str
    value: str
    secret: bool = False

    def __repr__(self) -> str:
        return f"EnvVar({self.name}={'<secret>' if self.secret else repr(self.value)})"


@dataclass(frozen=True)
class Environment:
    """A container's variables.

    Attributes:
        variables: What the guest gets, sorted by name, each name once.
        expandable: What `$(VAR)` sees in command, args and subPathExpr.
    """

    variables: list[EnvVar]
    expandable: Mapping[str, Text]

    def expand(self, text: str) -> Text:
        """`text` with its `$(VAR)` replaced; unknown ones stay."""
        return _expanded(text, self.expandable.get)


@dataclass(frozen=True)
class Command:
    """What is run: `command` (the pod's, else the image's Entrypoint) and `args`; argv[0] is the caller's to choose."""

    command: tuple[Text, ...]
    args: tuple[Text, ...]


async def build_environment(
    pod: Pod,
    container: Container,
    *,
    objects: Objects,
    fields: PodFields,
    volumes: Mapping[str, HostVolume] | None = None,
    image_env: Sequence[str] = (),
    hostname: str | None = None,
    service_variables: Mapping[str, str] | None = None,
) -> Environment:
    """Decide every variable of `container`.

    Args:
        objects: Where ConfigMaps and Secrets come from.
        fields: Addresses and allocatable; the pod's addresses must be known by now.
        volumes: Volumes by name, for fileKeyRef.
        image_env: The image's `NAME=value` entries.
        hostname: HOSTNAME; None for none.
        service_variables: They fill only what the pod leaves unset.

    Raises:
        NotFoundError: An object is missing and not optional. Like the next two: reason CreateContainerConfigError,
            the kubelet's message, tried again later.
        UserError: A key is missing, or a value cannot be a WASI string.
        RetryableError: The source of objects is away.
    """
    builder = _Builder(pod, container, objects, fields, volumes or {}, service_variables or {})
    try:
        for source in container.env_from:
            await builder.add_from(source)
        for variable in container.env:
            await builder.add(variable.name, variable.value, variable.value_from)
        visible = builder.visible()
        given = _split_image_env(image_env) | ({} if hostname is None else {"HOSTNAME": Text(hostname)})
        return Environment(_finished(given | visible), visible)
    except WasmletError as error:
        raise _configuration_error(error) from error


def build_command(
    container: Container, environment: Environment, *, entrypoint: Sequence[str] = (), cmd: Sequence[str] = ()
) -> Command:
    """`command` replaces the image's Entrypoint and drops its Cmd; `args` replaces Cmd.

    Only the pod's own are expanded, never the image's.
    """
    own_command = tuple(environment.expand(part) for part in container.command)
    own_args = tuple(environment.expand(part) for part in container.args)
    if own_command:
        return Command(own_command, own_args)
    return Command(tuple(map(Text, entrypoint)), own_args or tuple(map(Text, cmd)))


def working_directory(container: Container, *, image_working_directory: str = "") -> str:
    """The container's, else the image's, else "/"; always absolute and normal."""
    chosen = container.working_dir or image_working_directory or "/"
    return posixpath.normpath("/" + chosen.lstrip("/"))


def expand_sub_path(mount: VolumeMount, environment: Environment) -> str:
    """subPath, or subPathExpr with its variables; "" for the whole volume.

    Raises:
        UserError: reason CreateContainerConfigError: a variable is missing or empty, or the result is absolute or
            holds `..`.
    """
    path = Text(mount.sub_path)
    if mount.sub_path_expr:
        missing = set()

        def lookup(name: str) -> str:
            value = environment.expandable.get(name, Text("")).value
            if not value:
                missing.add(name)
            return value

        expand(mount.sub_path_expr, lookup)
        if missing:
            raise UserError(f"missing value for {', '.join(sorted(missing))}", reason=REASON)
        path = environment.expand(mount.sub_path_expr)
    shown = mount.sub_path_expr if path.secret else path.value
    if path.value.startswith("/"):
        raise UserError(f"error SubPath `{shown}` must not be an absolute path", reason=REASON)
    if ".." in path.value.split("/"):
        raise UserError(f"unable to provision SubPath `{shown}`: must not contain '..'", reason=REASON)
    return path.value


# --- building ---------------------------------------------------------------------------------------------------------


@dataclass
class _Builder:
    """The variables so far. Objects are fetched once, so that one container never sees two versions of one."""

    pod: Pod
    container: Container
    objects: Objects
    fields: PodFields
    volumes: Mapping[str, HostVolume]
    service_variables: Mapping[str, str]
    texts: dict[str, Text] = field(default_factory=dict)
    contents: dict[tuple[bool, str], Mapping[str, str | bytes] | NotFoundError] = field(default_factory=dict)

    def visible(self) -> dict[str, Text]:
        """What the pod set, and service variables where it set nothing."""
        return {name: Text(value) for name, value in self.service_variables.items()} | self.texts

    def _find(self, name: str) -> Text | None:
        found = self.texts.get(name)
        return Text(self.service_variables[name]) if found is None and name in self.service_variables else found

    async def add_from(self, source: EnvFromSource) -> None:
        reference, secret = source.config_map_ref, False
        if reference is None:
            reference, secret = source.secret_ref, True
        if reference is None:
            raise UserError("an envFrom entry has neither configMapRef nor secretRef")
        content = await self._content(reference.name, optional=bool(reference.optional), secret=secret)
        for key, value in (content or {}).items():
            name = source.prefix + key
            self.texts[name] = _text(value, variable=name)

    async def add(self, name: str, value: str, source: EnvVarSource | None) -> None:
        if value or source is None:
            self.texts[name] = _expanded(value, self._find)
            return
        text = await self._from_source(name, source)
        if text is not None:
            self.texts[name] = text

    async def _from_source(self, variable: str, source: EnvVarSource) -> Text | None:
        """The value, None when something optional is missing."""
        if source.field_ref is not None:
            return Text(pod_text(self.pod, source.field_ref.field_path, fields=self.fields))
        if source.resource_field_ref is not None:
            selector = source.resource_field_ref
            return Text(resource_text(self.pod, selector, container=self.container, fields=self.fields))
        if source.config_map_key_ref is not None:
            return await self._key(variable, source.config_map_key_ref, secret=False)
        if source.secret_key_ref is not None:
            return await self._key(variable, source.secret_key_ref, secret=True)
        if source.file_key_ref is not None:
            return self._file_key(source.file_key_ref)
        raise UserError(f"variable {variable} has a valueFrom of a kind wasmlet does not know")

    async def _key(self, variable: str, selector: KeySelector, *, secret: bool) -> Text | None:
        content = await self._content(selector.name, optional=bool(selector.optional), secret=secret)
        if content is not None and selector.key in content:
            return _text(content[selector.key], variable=variable)
        if selector.optional:
            return None
        kind = "Secret" if secret else "ConfigMap"
        raise UserError(f"couldn't find key {selector.key} in {kind} {self.pod.metadata.namespace}/{selector.name}")

    async def _content(self, name: str, *, optional: bool, secret: bool) -> Mapping[str, str | bytes] | None:
        """Texts of a ConfigMap (`data` only: variables never come from binaryData), or bytes of a Secret."""
        known = self.contents.get((secret, name))
        if known is None:
            known = await self._fetched(name, secret=secret)
            self.contents[secret, name] = known
        if isinstance(known, NotFoundError):
            if optional:
                return None
            raise known
        return known

    async def _fetched(self, name: str, *, secret: bool) -> Mapping[str, str | bytes] | NotFoundError:
        namespace = self.pod.metadata.namespace
        try:
            if secret:
                return dict(secret_content(await self.objects.secret(namespace, name)))
            return dict((await self.objects.config_map(namespace, name)).data)
        except NotFoundError as error:
            return error

    def _file_key(self, selector: FileKeySelector) -> Text | None:
        spec = next((volume for volume in self.pod.spec.volumes if volume.name == selector.volume_name), None)
        host = self.volumes.get(selector.volume_name)
        if host is None or spec is None:
            raise UserError(f'cannot find the volume "{selector.volume_name}" referenced by FileKeyRef')
        if spec.empty_dir is None:
            raise UserError(f'the volume "{selector.volume_name}" of a FileKeyRef must be an emptyDir')
        try:
            content = beneath.read_file(host.path, selector.path, limit_bytes=ENVIRONMENT_FILE_BYTES + 1)
        except NotFoundError:
            if selector.optional:
                return None
            raise NotFoundError(f'environment variable file "{selector.path}" does not exist') from None
        if len(content) > ENVIRONMENT_FILE_BYTES:
            raise UserError(
                f'environment variable file "{selector.path}" is larger than {ENVIRONMENT_FILE_BYTES} bytes'
            )
        value = environment_file.find(_decoded(content, what=f'file "{selector.path}"'), selector.key)
        if value:
            return Text(value)
        if selector.optional:
            return None
        raise UserError(f'environment variable key "{selector.key}" not found in file "{selector.path}"')


def _expanded(text: str, find: Callable[[str], Text | None]) -> Text:
    secret = False

    def lookup(name: str) -> str | None:
        nonlocal secret
        found = find(name)
        if found is None:
            return None
        secret = secret or found.secret
        return found.value

    return Text(expand(text, lookup), secret) if "$" in text else Text(text)


def _text(value: str | bytes, *, variable: str) -> Text:
    """A ConfigMap's text, or a Secret's bytes."""
    if isinstance(value, str):
        return Text(value)
    return Text(_decoded(value, what=f"variable {variable}"), secret=True)


def _decoded(content: bytes, *, what: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        # No chaining: the cause quotes the bytes.
        raise UserError(f"{what} is not UTF-8, which WASI strings must be", hint="mount it as a file") from None


def _split_image_env(entries: Sequence[str]) -> dict[str, Text]:
    pairs = (entry.partition("=") for entry in entries)
    return {name: Text(value) for name, _, value in pairs if name}


def _finished(texts: Mapping[str, Text]) -> list[EnvVar]:
    for name, text in texts.items():
        if not name or "=" in name or "\0" in name:
            raise UserError(f"{name!r} cannot be the name of a variable", hint="any printable ASCII but '='")
        if "\0" in text.value:
            raise UserError(f"variable {name} holds a NUL, which no environment can", hint="mount it as a file")
    return [EnvVar(name, texts[name].value, texts[name].secret) for name in sorted(texts)]


def _configuration_error(error: WasmletError) -> WasmletError:
    """The same error under the reason that the container's status shows."""
    if isinstance(error, RetryableError):
        seconds = error.retry_after_seconds
        return RetryableError(error.message, hint=error.hint, reason=REASON, retry_after_seconds=seconds)
    kind = NotFoundError if isinstance(error, NotFoundError) else UserError
    return kind(error.message, hint=error.hint, reason=REASON)
