"""aiohttp without the machine's authorities."""

import asyncio
import os
import ssl
import sys
from pathlib import Path

import trustme

PROGRAM = """
import asyncio, os, ssl, sys
from wasmlet.base.http import aiohttp

async def ask(url):
    async with aiohttp.ClientSession() as session:
        async with session.get(url, ssl=ssl.create_default_context()) as answer:
            print(answer.status)
        try:
            async with session.get(url):
                pass
        except aiohttp.ClientConnectorCertificateError:
            print("refused")

print(os.environ["SSL_CERT_FILE"] == sys.argv[2], "SSL_CERT_DIR" in os.environ)
asyncio.run(ask(sys.argv[1]))
"""
"""First with a context of its own, which has the authorities of the environment; then with aiohttp's."""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


async def test_only_a_context_of_ones_own_trusts_anybody(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    environment = {key: value for key, value in os.environ.items() if key != "SSL_CERT_DIR"}
    async with await asyncio.start_server(answer, "127.0.0.1", ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, f"https://127.0.0.1:{port}/", str(tmp_path / "ca.pem"),
            env=environment | {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert output.split() == [b"True", b"False", b"204", b"refused"]
