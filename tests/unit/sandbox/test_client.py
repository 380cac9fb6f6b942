"""What a client makes of answers that are none."""

from pathlib import Path

import pytest
from aiohttp import web

from wasmlet.base.errors import WasmletError
from wasmlet.sandbox.client import EngineClient
from wasmlet.sandbox.refusals import SOCKET_NAME, EngineGoneError


async def test_a_client_of_nobody(tmp_path: Path) -> None:
    client = EngineClient(tmp_path)
    with pytest.raises(EngineGoneError):
        await client.engine()
    with pytest.raises(EngineGoneError):
        async for _ in client.events(after=0, incarnation="a"):
            pass
    await client.close()
    await client.close()


@pytest.mark.parametrize(
    ("code", "content", "said"),
    [
        (200, b"{}", "what this agent does not understand: .*missing required field"),
        (500, b"?", "with 500 and no reason"),
    ],
)
async def test_answers_that_are_not_understood(state_directory: Path, code: int, content: bytes, said: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=code, body=content)

    application = web.Application()
    application.router.add_get("/engine", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    client = EngineClient(state_directory)
    try:
        await web.UnixSite(runner, str(state_directory / SOCKET_NAME)).start()
        with pytest.raises(WasmletError, match=rf"engine {state_directory.name}: GET /engine was answered .*{said}"):
            await client.engine()
    finally:
        await client.close()
        await runner.cleanup()
