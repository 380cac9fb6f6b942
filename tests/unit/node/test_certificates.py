"""Rotation on a virtual clock, by an authority that is asked through a seam."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.node import virtual
from tests.unit.node.authority import Authority
from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.node import certificates, keys, signing
from wasmlet.node.certificates import ClientCertificate, ServingCertificate, rotation_moment
from wasmlet.node.store import Store

DAY = 86400.0
SUBJECT = keys.Subject(node="n")


class Signer:
    """Stands for `signing.obtain`; certificates begin at the virtual now."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.asked: list[tuple[float, signing.Purpose, keys.Subject, bytes]] = []
        self.errors: list[WasmletError] = []
        self.approval = asyncio.Event()
        self.approval.set()

    async def obtain(
        self, client: Any, purpose: signing.Purpose, subject: keys.Subject, key_pem: bytes, **_: Any
    ) -> bytes:
        self.asked.append((asyncio.get_running_loop().time(), purpose, subject, key_pem))
        if self.errors:
            raise self.errors.pop(0)
        await self.approval.wait()
        return self.sign(key_pem, subject)

    def sign(self, key_pem: bytes, subject: keys.Subject) -> bytes:
        begin = datetime.fromtimestamp(virtual.now(), UTC)
        return self.authority.sign(keys.request(key_pem, subject), begin=begin, life=timedelta(days=1))


@pytest.fixture
def signer(monkeypatch: pytest.MonkeyPatch) -> Signer:
    signer = Signer()
    monkeypatch.setattr(signing, "obtain", signer.obtain)
    return signer


def test_the_moment_is_between_70_and_90_per_cent() -> None:
    assert rotation_moment(100.0, 200.0, share=0.0) == pytest.approx(170.0)
    assert rotation_moment(100.0, 200.0, share=1.0) == pytest.approx(190.0)


# --- client -----------------------------------------------------------------------------------------------------------


def client_story(signer: Signer, directory: Path, *, seconds: float, errors: list[WasmletError] | None = None) -> int:
    """Run from a fresh certificate on; how often others were told."""
    told = 0

    async def on_new() -> None:
        nonlocal told
        told += 1

    async def story() -> None:
        store = Store(directory, "wasmlet-client")
        key = keys.new_key()
        store.save(signer.sign(key, SUBJECT), key, now=virtual.now())
        signer.errors = errors or []
        keeping = ClientCertificate(virtual.Api().client, store, "n", on_new=on_new, now=virtual.now, share=lambda: 0.5)
        await virtual.run_for(seconds, keeping.run())

    virtual.run(story())
    return told


def test_a_client_certificate_is_renewed_with_a_new_key_each_time(signer: Signer, tmp_path: Path) -> None:
    assert client_story(signer, tmp_path, seconds=2.5 * DAY) == 3
    times = [at for at, *_ in signer.asked]
    assert times == pytest.approx([0.8 * DAY, 1.6 * DAY, 2.4 * DAY], abs=2)
    assert {(purpose, subject) for _, purpose, subject, _ in signer.asked} == {(signing.CLIENT, SUBJECT)}
    assert len({key for *_, key in signer.asked}) == 3
    pair = Store(tmp_path, "wasmlet-client").load()
    assert pair is not None
    assert keys.fits(pair, signer.asked[-1][3])
    assert signer.asked[-1][3] in pair


def test_a_failed_rotation_backs_off_and_goes_on(signer: Signer, tmp_path: Path) -> None:
    errors: list[WasmletError] = [RetryableError("away") for _ in range(7)]
    assert client_story(signer, tmp_path, seconds=DAY, errors=errors) == 1
    times = [at for at, *_ in signer.asked]
    waits = [round(after - before) for before, after in itertools.pairwise(times)]
    assert waits == [2, 4, 8, 16, 32, 32, 32]


def test_one_that_was_over_too_soon_is_replaced_by_a_new_identity(
    signer: Signer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path, "wasmlet-client")
    failures = [RetryableError("no bootstrap token"), None]
    rotated: list[float] = []

    async def begin_again() -> None:
        if (failure := failures.pop(0)) is not None:
            raise failure
        key = keys.new_key()
        store.save(signer.sign(key, SUBJECT), key, now=virtual.now())

    async def on_new() -> None:
        rotated.append(asyncio.get_running_loop().time())

    async def story(*, has_bootstrap: bool) -> None:
        key = keys.new_key()
        store.save(signer.sign(key, SUBJECT), key, now=virtual.now())
        signer.errors = [RetryableError("refused by the API server")] * 100_000
        keeping = ClientCertificate(
            virtual.Api().client, store, "n", on_new=on_new, now=virtual.now, share=lambda: 0.5,
            begin_again=begin_again if has_bootstrap else None,
        )  # fmt: skip
        await virtual.run_for(1.1 * DAY, keeping.run())

    virtual.run(story(has_bootstrap=False))
    assert rotated == []
    assert "cannot ask for the next one: refused by the API server; join again with a new token" in caplog.text
    virtual.run(story(has_bootstrap=True))
    assert rotated == [pytest.approx(DAY, abs=100)]
    assert failures == []


def test_a_denied_rotation_does_not_fill_the_list(signer: Signer, tmp_path: Path) -> None:
    assert client_story(signer, tmp_path, seconds=DAY, errors=[UserError("no", reason="Denied")]) == 1
    times = [at for at, *_ in signer.asked]
    assert round(times[1] - times[0]) == 900


def test_a_broken_file_ends_nothing(signer: Signer, tmp_path: Path) -> None:
    async def on_new() -> None:
        raise AssertionError

    async def story() -> None:
        keeping = ClientCertificate(
            virtual.Api().client, Store(tmp_path, "wasmlet-client"), "n", on_new=on_new, now=virtual.now
        )
        await virtual.run_for(300, keeping.run())

    virtual.run(story())
    assert signer.asked == []


# --- serving ----------------------------------------------------------------------------------------------------------


class Shown:
    """What the server was told to show."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory, "wasmlet-server")
        self.told: list[tuple[float, keys.Certificate]] = []

    def __call__(self, path: Path) -> None:
        self.told.append((asyncio.get_running_loop().time(), keys.certificate(path.read_bytes())))

    def manager(self, **changes: Any) -> ServingCertificate:
        values: dict[str, Any] = {"on_new": self, "now": virtual.now, "share": lambda: 0.5}
        return ServingCertificate(virtual.Api().client, self.store, "n", **(values | changes))

    @property
    def kinds(self) -> list[str]:
        return ["self" if each.is_self_signed else "cluster" for _, each in self.told]


def test_self_signed_until_approved(signer: Signer, tmp_path: Path) -> None:
    shown = Shown(tmp_path)

    async def story() -> None:
        signer.approval.clear()
        keeping = shown.manager()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(keeping.run())
            await asyncio.sleep(100)
            assert signer.asked == []  # no address, no certificate
            keeping.set_addresses(("192.0.2.7",))
            await asyncio.sleep(5000)
            assert shown.kinds == ["self"]
            assert len(signer.asked) == 1  # no new request each quarter of an hour
            signer.approval.set()
            await asyncio.sleep(1)
            assert shown.kinds == ["self", "cluster"]
            await asyncio.sleep(DAY)
            task.cancel()

    virtual.run(story())
    assert shown.kinds == ["self", "cluster", "cluster"]
    assert {each.names for _, each in shown.told} == {frozenset({"n", "192.0.2.7"})}
    assert {purpose for _, purpose, *_ in signer.asked} == {signing.SERVING}


def test_new_addresses_need_a_new_certificate_at_once(signer: Signer, tmp_path: Path) -> None:
    shown = Shown(tmp_path)

    async def story() -> None:
        keeping = shown.manager()
        keeping.set_addresses(("192.0.2.7",))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(keeping.run())
            await asyncio.sleep(10)
            signer.approval.clear()
            keeping.set_addresses(("192.0.2.8",))
            keeping.set_addresses(("192.0.2.8",))
            await asyncio.sleep(10)
            task.cancel()

    virtual.run(story())
    assert shown.kinds == ["self", "cluster", "self"]
    assert shown.told[-1][1].names == {"n", "192.0.2.8"}


def test_after_a_restart_the_stored_one_is_shown_and_the_awaited_key_kept(signer: Signer, tmp_path: Path) -> None:
    shown = Shown(tmp_path)

    async def story() -> None:
        signer.approval.clear()
        for _ in range(2):
            keeping = shown.manager()
            keeping.set_addresses(("192.0.2.7",))
            await virtual.run_for(10, keeping.run())
        signer.approval.set()
        for _ in range(2):
            keeping = shown.manager()
            keeping.set_addresses(("192.0.2.7",))
            await virtual.run_for(10, keeping.run())

    virtual.run(story())
    assert shown.kinds == ["self", "self", "self", "cluster", "cluster"]
    assert len({key for *_, key in signer.asked}) == 1


def test_self_signed_for_good_when_nobody_is_asked(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LONGEST_SLEEP_SECONDS", DAY)
    shown = Shown(tmp_path)

    async def story() -> None:
        keeping = shown.manager(is_requested=False)
        keeping.set_addresses(("192.0.2.7",))
        await virtual.run_for(300 * DAY, keeping.run())

    virtual.run(story())
    assert shown.kinds == ["self", "self"]
    assert signer.asked == []
