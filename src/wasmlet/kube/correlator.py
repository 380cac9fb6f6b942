"""Which occurrences become events of the cluster, and which only count: pure, with the clock as an argument.

Does what client-go's EventCorrelator does (tools/record/events_cache.go): the same again counts, many similar ones
become one, and a noisy object is cut off. An agent without this floods etcd when a pod crashes in a loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from wasmlet.kube.pace import Bucket

__all__ = ["Correlator", "Occurrence", "Reference", "Report"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_SIMILAR: Final = 10
SIMILAR_SECONDS: Final = 600.0
SPAM_BURST: Final = 25
SPAM_REFILL_SECONDS: Final = 300.0
REMEMBERED: Final = 4096
"""Keys in each memory, the least recently used go first. All five: client-go's defaults."""

COMBINED: Final = "(combined from similar events): "

MAX_OBJECT_CHARACTERS: Final = 253 - 17
"""An event's name holds the object's, a dot and 16 hexadecimal digits within the 253 characters of a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The object that an event is about.

    Attributes:
        namespace: Empty for a Node; its events live in "default".
        field_path: `spec.containers{name}` and its like; empty: the whole object.
    """

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    api_version: str = "v1"
    resource_version: str = ""
    field_path: str = ""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something happened. `type` is Normal or Warning."""

    about: Reference
    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What to tell the API server: create the event of this name when `count` is 1, else patch it.

    Attributes:
        name: `{object}.{nanoseconds in hexadecimal}`.
        occurrence: The last of those that were counted; its message may stand for many.
        first_at, last_at: Seconds since the epoch.
    """

    name: str
    occurrence: Occurrence
    count: int
    first_at: float
    last_at: float


@dataclass(slots=True)
class _Similar:
    messages: set[str]
    last_at: float


class Correlator:
    """The memory of what was reported."""

    def __init__(self) -> None:
        self._similar: _Recent[tuple[object, ...], _Similar] = _Recent()
        self._reports: _Recent[tuple[object, ...], Report] = _Recent()
        self._buckets: _Recent[tuple[object, ...], Bucket] = _Recent()
        self._last_name = 0

    def __repr__(self) -> str:
        return f"<Correlator of {len(self._reports)} events>"

    def observe(self, occurrence: Occurrence, *, now: float) -> Report | None:
        """What to tell about it; None: nothing, the object is too noisy. It is counted all the same."""
        occurrence, key = self._combine(occurrence, now)
        before = self._reports.find(key)
        if before is None:
            name = self._name(occurrence.about.name, now)
            report = Report(name=name, occurrence=occurrence, count=1, first_at=now, last_at=now)
        else:
            report = replace(before, occurrence=occurrence, count=before.count + 1, last_at=now)
        self._reports.put(key, report)
        about = occurrence.about
        noisy = (about.api_version, about.kind, about.namespace, about.name, about.uid)
        bucket = self._buckets.find_or(noisy, lambda: Bucket(rate=1 / SPAM_REFILL_SECONDS, burst=SPAM_BURST))
        return report if bucket.take(now) else None

    def _combine(self, occurrence: Occurrence, now: float) -> tuple[Occurrence, tuple[object, ...]]:
        """The occurrence as it will be told, and the key under which it counts."""
        about = replace(occurrence.about, resource_version="")
        kind = (about, occurrence.type, occurrence.reason)
        # Similar ones may be about several containers of a pod, as in client-go.
        similar_key = (replace(about, field_path=""), occurrence.type, occurrence.reason)
        similar = self._similar.find_or(similar_key, lambda: _Similar(set(), now))
        if now - similar.last_at > SIMILAR_SECONDS:
            similar.messages.clear()
        similar.last_at = now
        similar.messages.add(occurrence.message)
        if len(similar.messages) < MAX_SIMILAR:
            return occurrence, (*kind, occurrence.message)
        similar.messages.pop()  # keeps the set at its size
        return replace(occurrence, message=COMBINED + occurrence.message), similar_key

    def _name(self, name: str, now: float) -> str:
        self._last_name = max(self._last_name + 1, int(now * 1e9))
        return f"{name[:MAX_OBJECT_CHARACTERS]}.{self._last_name:x}"


class _Recent(Generic[K, V]):
    """A mapping that forgets what was not used for long."""

    def __init__(self) -> None:
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def find(self, key: K) -> V | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def find_or(self, key: K, make: Callable[[], V]) -> V:
        value = self.find(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > REMEMBERED:
            self._values.popitem(last=False)
