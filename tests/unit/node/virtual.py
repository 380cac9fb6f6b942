"""Hours in milliseconds: an event loop whose clock jumps to the next timer, and an API server in memory for it."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec

from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import AlreadyExistsError
from wasmlet.kube.resources import Resource

T = TypeVar("T")
EPOCH = 1_800_000_000.0


class _Selector(selectors.DefaultSelector):
    """Never waits: what it would have waited passes on the loop's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        assert timeout is not None, "everything waits for something that never comes"
        self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._clock_resolution = 1e-6  # after months less than that is lost in rounding, and timers never fire

    def time(self) -> float:
        return self._virtual.now


def now() -> float:
    """The wall clock of a test: moves with the loop."""
    return EPOCH + asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on a virtual clock that starts at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def run_for(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Run never-ending work for a while."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return


@dataclass
class Call:
    at: float
    verb: str
    resource: str
    name: str
    body: Any = None


@dataclass
class Api:
    """Answers at once. `failures` are asked before each call; what they return is raised."""

    objects: dict[tuple[str, str], Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    failures: Callable[[Call], WasmletError | None] = lambda _: None
    versions: int = 0

    @property
    def client(self) -> Client:
        return cast("Client", self)

    def sharing(self, **_: Any) -> Client:
        return self.client

    def level(self, usual: int) -> int:
        return usual

    def times(self, verb: str) -> list[float]:
        return [each.at for each in self.calls if each.verb == verb]

    def put(self, resource: Resource[Any], item: Any) -> Any:
        self.versions += 1
        item = msgspec.json.decode(msgspec.json.encode(item), type=resource.type)
        item.metadata.resource_version = str(self.versions)
        item.metadata.uid = item.metadata.uid or f"uid-{self.versions}"
        self.objects[resource.plural, item.metadata.name] = item
        return msgspec.json.decode(msgspec.json.encode(item), type=resource.type)

    def _called(self, verb: str, resource: Resource[Any], name: str, body: Any = None) -> Any:
        call = Call(asyncio.get_running_loop().time(), verb, resource.plural, name, body)
        self.calls.append(call)
        if (error := self.failures(call)) is not None:
            raise error
        return self.objects.get((resource.plural, name))

    async def get(self, resource: Resource[T], name: str, **_: Any) -> T:  # type: ignore[type-var]
        present = self._called("get", resource, name)
        if present is None:
            raise NotFoundError("gone")
        return msgspec.json.decode(msgspec.json.encode(present), type=resource.type)

    async def create(self, resource: Resource[Any], body: Any, **_: Any) -> Any:
        if self._called("create", resource, body.metadata.name, body) is not None:
            raise AlreadyExistsError("there")
        return self.put(resource, body)

    async def update(self, resource: Resource[Any], body: Any, **_: Any) -> Any:
        if self._called("update", resource, body.metadata.name, body) is None:
            raise NotFoundError("gone")
        return self.put(resource, body)

    async def patch(self, resource: Resource[Any], name: str, body: Any, **_: Any) -> Any:
        present = self._called("patch", resource, name, body)
        if present is None:
            raise NotFoundError("gone")
        merged = _merged(msgspec.to_builtins(present), msgspec.to_builtins(body))
        return self.put(resource, msgspec.convert(merged, resource.type))


def _merged(target: Any, patch: Any) -> Any:
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merged(result.get(key, {}), value)
        elif isinstance(value, list):
            result[key] = [each for each in value if not (isinstance(each, dict) and "$patch" in each)]
        else:
            result[key] = value
    return result
