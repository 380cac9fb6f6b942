"""Guests that serve HTTP: against `wasmtime serve`, beside guests that spin, under a quota, and ten thousand idle ones.

Load comes from `wrk` (Debian). The peer is looked for in the PATH and in `~/.cache/wasmlet/wasmtime/bin`, where
`cargo install wasmtime-cli --version 48.0.8 --locked --root ~/.cache/wasmlet/wasmtime` puts it; without it the
comparison is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.harness import ROOT, Row, compiled, engine, median, memory, spec, state_directory
from wasmlet.sandbox import protocol
from wasmlet.sandbox.engines import Handle

GUEST = ROOT / "tests" / "http-guest" / "http-guest.wasm"
CONCURRENT = ROOT / "tests" / "p3-http-guest" / "p3-http-guest.wasm"
GREETER = ROOT / "demos" / "http-greeter-javascript" / "http-greeter-javascript.wasm"
PEER_FOLDER = Path.home() / ".cache" / "wasmlet" / "wasmtime" / "bin"
ADDRESS = "127.89.0.1"
PORT = 8080
PAIRS = 5
LOAD_SECONDS = 5
CONNECTIONS = 32
FEW = 4
SPINNING = 8
IDLE = 10_000
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What a load generator saw: answers a second, and the 99th percentile of their seconds."""

    rate: float
    p99: float


async def measure() -> list[Row]:
    """One after another; each has an engine of its own."""
    return [*await _against_peer(), *await _neighbours(), *await _quota(), *await _accounting(), *await _idle()]


# --- against wasmtime serve -------------------------------------------------------------------------------------------


async def _against_peer() -> list[Row]:
    peer = shutil.which("wasmtime", path=f"{os.environ['PATH']}{os.pathsep}{PEER_FOLDER}")
    if peer is None:
        async with _site() as once:
            load = await _load(once)
        return [Row("http, small Rust component, reuse 1 (no wasmtime here)", f"{load.rate:.0f}/s", "")]
    async with _site() as once, _site(reuse=100) as often, _serving(peer, GUEST) as other:
        rows = _compared("small Rust component, reuse 1", await _pairs(once, other))
        many = median([ours.rate / theirs.rate for ours, theirs in await _pairs(often, other)])
    rows.append(
        Row("the Rust component with reuse 100: requests/s against theirs", f"{many:.2f} ×", "≥ 3 ×", many >= 3)
    )
    async with _site(GREETER) as once, _serving(peer, GREETER) as other:
        rows += _compared("JavaScript component, reuse 1", await _pairs(once, other))
    async with _site(CONCURRENT, reuse=None) as shared, _serving(peer, CONCURRENT) as other:
        for connections in (FEW, CONNECTIONS):
            what = f"WASI 0.3, small Rust component, {connections} connections"
            rows += _compared(what, await _pairs(shared, other, connections))
    return rows


async def _pairs(one: str, other: str, connections: int = CONNECTIONS) -> list[tuple[Load, Load]]:
    """Alternated, since the machine's speed changes from one minute to the next."""
    return [
        (await _load(one, connections=connections), await _load(other, connections=connections)) for _ in range(PAIRS)
    ]


def _compared(guest: str, pairs: list[tuple[Load, Load]]) -> list[Row]:
    rates = median([ours.rate / theirs.rate for ours, theirs in pairs])
    slow = median([ours.p99 / theirs.p99 for ours, theirs in pairs])
    each = f"{median([ours.rate for ours, _ in pairs]):.0f} to {median([theirs.rate for _, theirs in pairs]):.0f}/s"
    what = f"against `wasmtime serve -Scli -Wtimeout=30s`, median of {PAIRS} pairs"
    return [
        Row(f"http, {guest}: requests/s {what}", f"{rates:.2f} × ({each})", "≥ 0.95 ×", rates >= 0.95),
        Row("its p99 against theirs", f"{slow:.2f} ×", "≤ 1.3 ×", slow <= 1.3),
    ]


@contextlib.asynccontextmanager
async def _serving(peer: str, guest: Path) -> AsyncIterator[str]:
    address = "127.89.0.9"
    process = await asyncio.create_subprocess_exec(
        peer, "serve", "-Scli", "-Wtimeout=30s", f"--addr={address}:{PORT}", guest,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(300):  # it compiles first
            while True:
                with contextlib.suppress(OSError), socket.create_connection((address, PORT)):
                    break
                await asyncio.sleep(0.05)
        yield address
    finally:
        process.kill()
        await process.wait()


# --- limits -----------------------------------------------------------------------------------------------------------


async def _neighbours() -> list[Row]:
    found = []
    async with _site() as quiet_site:
        for _ in range(PAIRS):
            quiet = await _load(quiet_site, connections=1)
            async with _spinning(quiet_site, SPINNING):
                busy = await _load(quiet_site, connections=1)
            found.append((busy.p99 / quiet.p99, quiet, busy))
    ratio, quiet, busy = sorted(found, key=lambda each: each[0])[PAIRS // 2]
    shown = f"{ratio:.2f} × ({quiet.p99 * 1000:.2f} → {busy.p99 * 1000:.2f} ms)"
    return [Row(f"http p99 beside {SPINNING} spinning guests, median of {PAIRS}", shown, "≤ 3 ×", ratio <= 3)]


async def _quota() -> list[Row]:
    async with _engine_with(cpu_quota_millicores=100) as (handle, address), _spinning(address, 2):
        await asyncio.sleep(1)
        used, seconds = await _used(handle, 10)
    share = used / seconds / 0.1
    return [Row("CPU used of a quota of 100m over 10 s", f"{share:.1%}", "90 to 110 %", 0.9 <= share <= 1.1)]


async def _accounting() -> list[Row]:
    async with _engine_with() as (handle, address), _spinning(address, 2):
        await asyncio.sleep(1)
        before = _process_seconds(handle.engine.pid)
        used, _ = await _used(handle, 5)
        ratio = used / (_process_seconds(handle.engine.pid) - before)
    what = "CPU counted for two spinning guests, of the engine's own"
    return [Row(what, f"{ratio:.1%}", "95 to 105 %", 0.95 <= ratio <= 1.05)]


async def _used(handle: Handle, seconds: float) -> tuple[float, float]:
    """CPU seconds of the only sandbox, and the seconds that passed."""
    began, before = time.perf_counter(), await _cpu(handle)
    await asyncio.sleep(seconds)
    after = await _cpu(handle)
    return (after - before) / 1e9, time.perf_counter() - began


async def _cpu(handle: Handle) -> int:
    usage = (await handle.client.sandboxes())[0].usage
    assert usage is not None
    return usage.cpu_nanoseconds


def _process_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.asynccontextmanager
async def _spinning(address: str, count: int) -> AsyncIterator[None]:
    clients = [await asyncio.open_connection(address, PORT) for _ in range(count)]
    for _, writer in clients:
        writer.write(b"GET /spin?60000 HTTP/1.1\r\nHost: bench\r\n\r\n")
        await writer.drain()
    await asyncio.sleep(0.3)
    try:
        yield
    finally:
        for _, writer in clients:
            writer.close()
        await asyncio.sleep(0.3)


# --- ten thousand -----------------------------------------------------------------------------------------------------


async def _idle() -> list[Row]:
    addresses = [f"127.90.{number // 250}.{number % 250 + 1}" for number in range(IDLE)]
    with state_directory() as state:
        async with engine(state) as (_, handle):
            artifact = await compiled(state, GUEST, handle)
            permits = asyncio.Semaphore(32)

            async def start(address: str) -> None:
                async with permits:
                    await handle.client.put(
                        f"web-{address.replace('.', '-')}", _web(spec(state, address, artifact), address)
                    )

            began = time.perf_counter()
            await asyncio.gather(*(start(address) for address in addresses))
            seconds = time.perf_counter() - began
            await asyncio.sleep(2)
            found = memory(handle.engine.pid)
            times = sorted([await _first_request(address) for address in addresses[::10]])
            info = await handle.client.engine()
    used, p99 = (found["pss"] + found["tables"]) / 2**20, times[len(times) * 99 // 100] * 1000
    what = f"{IDLE} idle http containers in one engine, its memory and page tables"
    return [
        Row(what, f"{used:.0f} MiB", "≤ 200 MiB", used <= 200),
        Row("first request of a thousand of them", f"p99 {p99:.1f} ms", "≤ 10 ms", p99 <= 10),
        Row(f"starting those {IDLE}, 32 requests at a time", f"{seconds:.1f} s", ""),
        Row("maps and descriptors of that engine", f"{info.maps.used}, {info.descriptors.used}", ""),
    ]


async def _first_request(address: str) -> float:
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(address, PORT)
    writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{address} answered {answer!r}")
    return time.perf_counter() - began


# --- sites ------------------------------------------------------------------------------------------------------------


def _web(each: protocol.SandboxSpec, address: str, **changes: int | None) -> protocol.SandboxSpec:
    reuse = changes.pop("reuse", 1)
    http = protocol.Http(addresses=[address], ports=[PORT], reuse=reuse, request_timeout_seconds=60)
    return msgspec.structs.replace(each, kind="http", http=http, **changes)


@contextlib.asynccontextmanager
async def _engine_with(guest: Path = GUEST, **changes: int | None) -> AsyncIterator[tuple[Handle, str]]:
    address = f"127.89.1.{changes.get('reuse', 1) or 2}"
    with state_directory() as state:
        async with engine(state) as (_, handle):
            artifact = await compiled(state, guest, handle)
            await handle.client.put("web", _web(spec(state, "web", artifact), address, **changes))
            yield handle, address


@contextlib.asynccontextmanager
async def _site(guest: Path = GUEST, **changes: int | None) -> AsyncIterator[str]:
    async with _engine_with(guest, **changes) as (_, address):
        yield address


async def _load(address: str, *, connections: int = CONNECTIONS) -> Load:
    process = await asyncio.create_subprocess_exec(
        "wrk", "-t1", f"-c{connections}", f"-d{LOAD_SECONDS}", "--latency", f"http://{address}:{PORT}/",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    text = output.decode()
    rate, late = re.search(r"Requests/sec:\s+([\d.]+)", text), re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    if rate is None or late is None or "Non-2xx" in text:
        raise RuntimeError(f"wrk said {text}")
    return Load(float(rate[1]), float(late[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1}[late[2]])
