"""The least that a node could do: watch its pods, say of each that it is Ready, and tell three events of it.

`bench.node` runs it beside wasmlet in the same minute, since the speed of a shared machine is anybody's guess: how much
longer a pod takes in wasmlet is wasmlet's own part. It uses aiohttp and asyncio as wasmlet does, and starts nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

from wasmlet.base.clock import system_clock, to_text
from wasmlet.kube import kubeconfig
from wasmlet.kube.credentials import Credentials, tls_context

NAME = "bare"
REASONS = ("Pulled", "Created", "Started")


async def serve(file: Path) -> None:
    """Be the node `bare` of that cluster until killed."""
    access = kubeconfig.load(file)
    context = tls_context(access, await Credentials(access).identity())
    async with (
        aiohttp.ClientSession(access.server, connector=aiohttp.TCPConnector(ssl=context, limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        query = {"watch": "true", "fieldSelector": f"spec.nodeName={NAME}"}
        async with session.get("/api/v1/pods", params=query, timeout=aiohttp.ClientTimeout(total=None)) as watch:
            print("ready", flush=True)
            async for line in watch.content:
                event = json.loads(line)
                if event["type"] == "ADDED":
                    group.create_task(_run(session, event["object"]))


async def _run(session: aiohttp.ClientSession, pod: dict[str, Any]) -> None:
    meta, now = pod["metadata"], to_text(system_clock())
    conditions = [{"type": each, "status": "True"} for each in ("Initialized", "ContainersReady", "Ready")]
    status = {"phase": "Running", "startTime": now, "podIP": "10.0.0.1", "conditions": conditions}
    place = f"/api/v1/namespaces/{meta['namespace']}"
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    body = json.dumps({"metadata": {"uid": meta["uid"]}, "status": status})
    async with session.patch(f"{place}/pods/{meta['name']}/status", data=body, headers=headers) as answer:
        await answer.read()
        answer.raise_for_status()
    about = {
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }
    for reason in REASONS:
        told = {
            "metadata": {"name": f"{meta['name']}.{reason.lower()}"}, "involvedObject": about, "reason": reason,
            "message": reason, "type": "Normal", "source": {"component": "bare"}, "count": 1,
        }  # fmt: skip
        async with session.post(f"{place}/events", json=told) as answer:
            await answer.read()
            answer.raise_for_status()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
