"""Which pods give way to a critical one that does not fit (kubelet-contract section 3). Pure.

The choice is the kubelet's: as few as possible, best-effort pods before burstable before guaranteed ones, and of equal
ones the smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wasmlet.kube.types import Pod
from wasmlet.pods.admission import Neighbour, NodeFacts, Refusal, is_critical, shortages
from wasmlet.pods.quality import BEST_EFFORT, BURSTABLE, GUARANTEED, qos_class

__all__ = ["MESSAGE", "REASON", "refusal", "victims"]

REASON = "Preempting"
MESSAGE = "Preempted in order to admit critical pod"

Missing = Mapping[str, int]


def victims(pod: Pod, node: NodeFacts, neighbours: Sequence[Neighbour]) -> list[Neighbour] | None:
    """The neighbours that have to go so that `pod` fits; none when it fits, None when nothing helps.

    Args:
        neighbours: Those that are not going away already.
    """
    missing = {each.resource: each.missing for each in shortages(pod, node, neighbours)}
    weaker = [each for each in neighbours if _is_weaker(each.pod, than=pod)]
    classes = {
        name: [each for each in weaker if qos_class(each.pod) == name] for name in (BEST_EFFORT, BURSTABLE, GUARANTEED)
    }
    if _less(missing, weaker):
        return None
    # What a better class must give is what is missing when all of the lesser ones have gone.
    guaranteed = _fewest(_less(missing, classes[BEST_EFFORT] + classes[BURSTABLE]), classes[GUARANTEED])
    burstable = _fewest(_less(missing, classes[BEST_EFFORT] + guaranteed), classes[BURSTABLE])
    return _fewest(_less(missing, burstable + guaranteed), classes[BEST_EFFORT]) + burstable + guaranteed


def refusal(pod: Pod, node: NodeFacts, neighbours: Sequence[Neighbour]) -> Refusal:
    """What is said when nothing helps."""
    listed = "".join(f"(res: {each.resource}, q: {each.missing}), " for each in shortages(pod, node, neighbours))
    text = "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of "
    text += f"pods to preempt: no set of running pods found to reclaim resources: [{listed}]"
    return Refusal("UnexpectedAdmissionError", text)


def _is_weaker(pod: Pod, *, than: Pod) -> bool:
    if is_critical(than) and not is_critical(pod):
        return True
    return pod.spec.priority is not None and (than.spec.priority or 0) > pod.spec.priority


def _fewest(missing: Missing, candidates: Sequence[Neighbour]) -> list[Neighbour]:
    """Take the candidate that fills most of what is missing, until nothing is."""
    left, chosen = list(candidates), list[Neighbour]()
    while missing and left:
        best = min(left, key=lambda each: (_distance(missing, each), _given(each, "memory"), _given(each, "cpu")))
        left.remove(best)
        chosen.append(best)
        missing = _less(missing, [best])
    return chosen


def _distance(missing: Missing, neighbour: Neighbour) -> float:
    """How far it stays behind, each resource weighing the same."""
    return sum(max(0.0, 1 - _given(neighbour, name) / amount) ** 2 for name, amount in missing.items())


def _less(missing: Missing, gone: Sequence[Neighbour]) -> Missing:
    """What is still missing without those."""
    left = {name: amount - sum(_given(each, name) for each in gone) for name, amount in missing.items()}
    return {name: amount for name, amount in left.items() if amount > 0}


def _given(neighbour: Neighbour, resource: str) -> int:
    return 1 if resource == "pods" else neighbour.requests.get(resource, 0)
