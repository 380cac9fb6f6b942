"""The engine's control socket keeps to `protocol/engine.openapi.yaml`, whatever is asked.

Schemathesis makes requests of the schema, and some that break it, and compares the answers with what it promises.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.support.guests import ROOT
from tests.support.processes import end
from tests.support.relay import relayed
from tests.support.waiting import eventually_now

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
TIMEOUT_SECONDS = 20  # a start may take ten
EXAMPLES = 20

config = schemathesis.Config.from_dict({"generation": {"mode": "all"}})
document = schemathesis.openapi.from_path(ROOT / "protocol" / "engine.openapi.yaml", config=config)
# One ends the engine, one never ends; the streams are tested frame by frame in engine/tests.
schema = document.exclude(operation_id=["shutDownEngine", "watchEvents", "openStdin", "openExec", "openAttach"])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, engine_program: Path) -> Iterator[str]:
    """The URL of an engine."""
    directory = tmp_path_factory.mktemp("engine")
    with (directory / "stderr").open("wb") as log:
        process = subprocess.Popen([engine_program, "serve", "--directory", directory], stderr=log)
    try:
        eventually_now((directory / "engine.sock").exists, "an engine")
        with relayed(directory / "engine.sock") as url:
            yield url
        assert process.poll() is None, (directory / "stderr").read_text()
    finally:
        end(process.pid)
        process.wait()


@schema.parametrize()
@hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck))
def test_answers_are_those_of_the_schema(case: Any, engine: str) -> None:
    answer = case.call(base_url=engine, timeout=TIMEOUT_SECONDS)
    case.validate_response(answer, checks=CHECKS)
