"""An exec's frames, and its stream on a real engine."""

import asyncio
import json
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.guests import ROOT, guest
from tests.support.waiting import eventually
from tests.unit.sandbox.conftest import Sandboxes, digest_of
from wasmlet.base.errors import ConflictError, NotFoundError, WasmletError
from wasmlet.sandbox import protocol
from wasmlet.sandbox.engines import Handle
from wasmlet.sandbox.exec_stream import MAX_PAYLOAD_BYTES, Channel, Decoder, ExecStream, encode
from wasmlet.sandbox.refusals import EngineGoneError

FRAMES = st.lists(st.tuples(st.sampled_from(Channel), st.binary(min_size=1, max_size=300)))


@given(FRAMES, st.lists(st.integers(1, 400)))
def test_frames_come_out_however_they_were_cut(frames: list[tuple[Channel, bytes]], cuts: list[int]) -> None:
    content, decoder, found = b"".join(encode(*frame) for frame in frames), Decoder(), list[tuple[Channel, bytes]]()
    for cut in cuts:
        found += decoder.feed(content[:cut])
        content = content[cut:]
    assert found + decoder.feed(content) == frames


@given(st.binary(max_size=200))
def test_whatever_comes_is_frames_or_an_error(content: bytes) -> None:
    try:
        frames = Decoder().feed(content)
    except WasmletError:
        return
    whole = b"".join(encode(*frame) if frame[1] else bytes([frame[0], 0, 0, 0, 0]) for frame in frames)
    assert content.startswith(whole)


def test_much_is_many_frames() -> None:
    content = bytes(MAX_PAYLOAD_BYTES + 1)
    assert [len(payload) for _, payload in Decoder().feed(encode(Channel.STDIN, content))] == [MAX_PAYLOAD_BYTES, 1]


def test_the_golden_frames() -> None:
    for item in json.loads((ROOT / "protocol" / "examples" / "ExecFrames.json").read_bytes())["items"]:
        frame = encode(Channel(item["channel"]), item["payload"].encode())
        assert frame.hex() == item["frame"]
        assert Decoder().feed(frame) == [(item["channel"], item["payload"].encode())]


async def exec_spec(sandboxes: Sandboxes, handle: Handle, name: str, *arguments: str) -> protocol.ExecSpec:
    artifact, _ = await sandboxes.artifacts.ensure(
        guest(name), digest=digest_of(guest(name)), compatibility=handle.engine.compatibility
    )
    return protocol.ExecSpec(args=[name, *arguments], artifact=artifact, stdin=True)


async def output_of(stream: ExecStream) -> tuple[bytes, bytes]:
    out = {Channel.STDOUT: b"", Channel.STDERR: b""}
    try:
        async for channel, content in stream.output():
            out[channel] += content
    finally:
        await stream.close()
    return out[Channel.STDOUT], out[Channel.STDERR]


async def test_a_stream_goes_both_ways_and_tells_the_end(sandboxes: Sandboxes) -> None:
    handle, identity = await sandboxes.put("sleep")
    stream = await handle.client.exec(identity, await exec_spec(sandboxes, handle, "echo"))
    await stream.resize(80, 24)
    sent = bytes(range(256)) * 2000

    async def send() -> None:
        await stream.write(sent)
        await stream.close_stdin()

    _, (stdout, stderr) = await asyncio.gather(send(), output_of(stream))
    assert (stdout, stderr) == (sent, b"")
    assert stream.exit == protocol.ExecExit(exit_code=0, reason="Completed", fault=None)
    stream = await handle.client.exec(identity, await exec_spec(sandboxes, handle, "exit", "7"))
    await output_of(stream)
    assert stream.exit is not None
    assert stream.exit.exit_code == 7
    await stream.write(b"to nobody")  # no error


async def test_refusals_and_ends(sandboxes: Sandboxes) -> None:
    handle, identity = await sandboxes.put("sleep")
    spec = await exec_spec(sandboxes, handle, "spin")
    with pytest.raises(NotFoundError):
        await handle.client.exec("nobody", spec)
    spinning = await handle.client.exec(identity, spec)
    await sandboxes.engines.stop(handle.record.id, identity, grace_seconds=1)
    assert b"the container has ended" in (await output_of(spinning))[1]
    assert spinning.exit is not None
    assert spinning.exit.exit_code == 137
    with pytest.raises(ConflictError):
        await handle.client.exec(identity, spec)
    # An engine that dies in the midst tells nothing.
    handle, identity = await sandboxes.put("sleep")
    left = await handle.client.exec(identity, spec)

    os.kill(handle.engine.pid, signal.SIGKILL)
    with pytest.raises(EngineGoneError):
        await output_of(left)
    await eventually(lambda: not sandboxes.engines.handles)
    with pytest.raises(EngineGoneError):
        await ExecStream.open(sandboxes.directory / "nothing" / "engine.sock", identity, spec)
