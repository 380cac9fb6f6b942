"""The Lease: its cadence, its owner, and what comes in between."""

import asyncio
import itertools
import re

from tests.unit.node import virtual
from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.kube.errors import OutdatedError
from wasmlet.node.lease import LeaseRenewer, micro_time
from wasmlet.node.objects import LEASES, Lease


def renewer(api: virtual.Api, uid: str = "node-uid") -> LeaseRenewer:
    return LeaseRenewer(api.client, "n", node_uid=lambda: uid, seconds=40, now=virtual.now)


def lease(api: virtual.Api) -> Lease:
    found: Lease = api.objects["leases", "n"]
    return found


def test_micro_time_has_six_digits() -> None:
    assert micro_time(0.5) == "1970-01-01T00:00:00.500000Z"
    assert re.fullmatch(r"[^.]+\.\d{6}Z", micro_time(1e9))


def test_it_is_renewed_each_ten_seconds() -> None:
    api = virtual.Api()
    virtual.run(virtual.run_for(101, renewer(api).run()))
    at = api.times("update")
    assert len(at) == 10
    assert all(10 <= after - before <= 10.4 + 1e-9 for before, after in itertools.pairwise(at))
    assert lease(api).spec.holder_identity == "n"
    assert lease(api).spec.lease_duration_seconds == 40
    assert [(each.kind, each.name, each.uid) for each in lease(api).metadata.owner_references] == [
        ("Node", "n", "node-uid")
    ]
    assert api.times("get") == [0.0]


def test_failures_are_tried_again_at_once_and_never_end_it() -> None:
    api = virtual.Api()
    api.failures = lambda call: RetryableError("away") if call.verb == "update" and call.at < 25 else None
    virtual.run(virtual.run_for(45, renewer(api).run()))
    at = api.times("update")
    assert len([each for each in at if each < 25]) == 15
    assert len([each for each in at if each > 25]) == 2


def test_a_conflict_is_read_anew() -> None:
    api = virtual.Api()
    conflicts = iter([OutdatedError("changed")])
    api.failures = lambda call: next(conflicts, None) if call.verb == "update" else None
    virtual.run(renewer(api).renew())
    assert [each.verb for each in api.calls] == ["get", "create", "update", "get", "update"]


def test_a_lease_that_was_collected_is_made_again_for_the_new_node() -> None:
    api = virtual.Api()
    uid = "first"

    async def story() -> None:
        nonlocal uid
        keeping = LeaseRenewer(api.client, "n", node_uid=lambda: uid, seconds=40, now=virtual.now)
        await keeping.renew()
        api.objects.clear()
        uid = "second"
        await keeping.renew()

    virtual.run(story())
    assert lease(api).metadata.owner_references[0].uid == "second"


def test_a_new_node_is_told_without_waiting() -> None:
    api = virtual.Api()

    async def story() -> None:
        keeping = renewer(api)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(keeping.run())
            await asyncio.sleep(3)
            keeping.wake()
            await asyncio.sleep(0.5)
            task.cancel()

    virtual.run(story())
    assert api.times("update") == [0.0, 3.0]


def test_it_waits_for_a_server_that_is_away() -> None:
    api = virtual.Api()

    def failures(call: virtual.Call) -> WasmletError | None:
        return RetryableError("away") if call.at < 10 else None

    api.failures = failures
    api.put(LEASES, Lease())
    virtual.run(virtual.run_for(20, renewer(api).run()))
    at = api.times("get")
    assert at[1] == 0.1
    assert max(after - before for before, after in itertools.pairwise(at)) <= 7.0
