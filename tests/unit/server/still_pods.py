"""Pods that nobody serves: their facts are what a test says, their logs what it writes."""

from pathlib import Path

from tests.support.agent import Agent
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.facts import Attempt, Facts, Failure, sandbox_id
from wasmlet.pods.worker import Worker

TIME = "2026-11-23T10:00:{:02}.{:09}Z"
START = 1795428000.0


class StillPod:
    """One pod of an agent, without its worker's loop."""

    def __init__(self, agent: Agent, bundle: Bundle) -> None:
        self.agent = agent
        self.bundle = bundle
        self._rotations = 0
        facts = Facts(uid=bundle.uid, seen_at=START, admitted_at=START, volumes_at=START)
        self.worker = Worker(agent.dispatch._rooms, bundle, facts, fresh=False, others={})
        agent.dispatch._workers[bundle.uid] = self.worker

    @property
    def path(self) -> str:
        meta = self.bundle.pod.metadata
        return f"/containerLogs/{meta.namespace}/{meta.name}"

    def attempt(self, name: str = "main", *, started: bool = True, ended: int | None = None) -> Attempt:
        """One more attempt of a container; `ended` with an exit code."""
        own = self.worker.facts.container(name)
        number = own.attempts[-1].number + 1 if own.attempts else 0
        attempt = Attempt(
            number=number, id=sandbox_id(self.bundle.uid, name, number), engine="e", created_at=START,
            started_at=START if started else None,
        )  # fmt: skip
        own.attempts = [*own.attempts, attempt][-2:]
        if ended is not None:
            self.end(name, code=ended)
        self.log(name, number).parent.mkdir(parents=True, exist_ok=True)
        return attempt

    def end(self, name: str = "main", *, code: int = 0) -> None:
        """The container ends, and whoever watches hears of it."""
        last = self.worker.facts.container(name).last
        assert last is not None
        last.finished_at, last.exit_code = START + 1, code
        self.agent.hub.changed(self.bundle.uid)

    def fail(self, shown: str, name: str = "main") -> None:
        """A start that failed."""
        self.worker.facts.container(name).failure = Failure(
            stage="image", shown=shown, message="m", cause="c", fault="user", at=START, count=1, retry_at=START
        )

    def log(self, name: str = "main", number: int = 0) -> Path:
        return self.worker.places.log_file(name, number)

    def write(self, *lines: str, name: str = "main", number: int = 0, stream: str = "stdout") -> None:
        """Whole lines, a nanosecond after each other."""
        with self.log(name, number).open("a") as file:
            for position, line in enumerate(lines):
                file.write(f"{TIME.format(0, position)} {stream} F {line}\n")

    def rotate(self, *, name: str = "main", number: int = 0, keep: int = 4) -> None:
        """As an engine does it; the new file comes with the next line."""
        current = self.log(name, number)
        self._rotations += 1
        current.rename(current.with_name(f"{current.name}.20261123-{self._rotations:06}"))
        for old in sorted(current.parent.glob(f"{current.name}.*"))[:-keep]:
            old.unlink()
