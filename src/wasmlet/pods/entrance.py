"""The edge of admission: what the Node says is fetched, the decision asked for, and its fact made.

`admission` and `preemption` decide; nothing is looked at again that has come in (its fact is saved).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wasmlet.pods import admission, preemption
from wasmlet.pods.admission import NodeFacts, Refusal
from wasmlet.pods.facts import Verdict
from wasmlet.pods.rooms import NodeSource, Rooms

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

__all__ = ["Entrance"]

PREEMPTION_POLL_SECONDS = 0.2
"""How often a critical pod looks whether those that it sent away have gone."""


class Entrance:
    """Lets one worker's pod in, or not.

    Args:
        others: Every worker of this agent by UID, as it is now.
    """

    def __init__(self, rooms: Rooms, worker: Worker, others: Mapping[str, Worker]) -> None:
        self._rooms = rooms
        self._worker = worker
        self._others = others

    async def admit(self) -> None:
        """Save the admission or a verdict; neither while lesser pods make room, so that it is asked again.

        Nothing may come between the decision and its fact: two pods would both have the last room.

        Raises:
            InterruptedWorkError: The pod is to end; nothing was decided.
        """
        node = self._rooms.node if self._worker.bundle.source != "local" else None
        refusal = self._refusal(None) if node is None else await self._asked(node)
        now = self._rooms.clock()
        if refusal is None:
            self._worker.facts.admitted_at = now
            return
        if node is not None and refusal.reason.startswith("OutOf") and admission.is_critical(self._worker.bundle.pod):
            refusal = self._preempt(await self._worker.unless_ending(node.facts()))
            if refusal is None:
                await self._worker.wait(now + PREEMPTION_POLL_SECONDS)
                return
        verdict = Verdict(phase="Failed", reason=refusal.reason, message=refusal.status_message, at=now)
        self._worker.facts.verdict = verdict
        self._worker.tell("Warning", refusal.reason, refusal.message)

    async def _asked(self, node: NodeSource) -> Refusal | None:
        refusal = self._refusal(await self._worker.unless_ending(node.facts()))
        if refusal is not None and refusal.reason == admission.NODE_AFFINITY:
            refusal = self._refusal(await self._worker.unless_ending(node.facts(live=True)))
        return refusal

    def _refusal(self, node: NodeFacts | None) -> Refusal | None:
        pod = self._worker.bundle.pod
        return admission.refuse(pod, node, [each.neighbour for each in self._neighbours()]) or self._rooms.refuse(pod)

    def _neighbours(self) -> list[Worker]:
        return [each for each in self._others.values() if each is not self._worker and each.holds_room]

    def _preempt(self, node: NodeFacts) -> Refusal | None:
        """Have lesser pods make room for this critical one, unless enough are on their way out already."""
        pod = self._worker.bundle.pod
        staying = [each for each in self._neighbours() if each.facts.verdict is None]
        neighbours = [each.neighbour for each in staying]
        chosen = preemption.victims(pod, node, neighbours)
        if chosen is None:
            return preemption.refusal(pod, node, neighbours)
        for victim in (each for each in staying if any(each.neighbour is one for one in chosen)):
            victim.tell("Warning", preemption.REASON, preemption.MESSAGE)
            victim.terminate(
                Verdict(
                    phase="Failed",
                    reason=preemption.REASON,
                    message=preemption.MESSAGE,
                    at=self._rooms.clock(),
                    disrupts=True,
                )
            )
        return None
