"""`wasmlet node`: the agent, in the foreground."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from collections.abc import Callable

import click

from wasmlet import agent, config


@click.command("node")
@click.option("--idle", is_flag=True, hidden=True, help="End when no pod lives and nobody asks any more.")
@click.option("--ready", type=int, hidden=True, metavar="DESCRIPTOR", help="Write a byte there when it answers.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.pass_obj
def node_command(state: str | None, idle: bool, ready: int | None, log_level: str) -> None:
    """Serve a state directory in the foreground: pods, probes and restart policies go on while it runs.

    Other commands start one in the background when they need it. One agent serves a state directory; its end
    (SIGTERM, Ctrl-C) stops no pod, and the next one takes them up again.
    """
    logging.basicConfig(level=log_level.upper(), handlers=[_handler()])
    settings = config.load(state=state)
    idle_seconds = settings.file.agent_idle_seconds if idle else None
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(agent.serve(settings, idle_seconds=idle_seconds, ready_descriptor=ready))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop: uvloop where it is installed (the extra `fast`), else asyncio itself."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    uvloop = importlib.import_module("uvloop")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Logfmt(logging.Formatter):
    """`time=… level=… message="…" key=value`: one line a record, fields last."""

    _STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in vars(record).items() if key not in self._STANDARD}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


def _handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Logfmt())
    return handler


def _quoted(text: str) -> str:
    plain = text and not any(each in text for each in ' "=\n\\')
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
