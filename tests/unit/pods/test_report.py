"""Statuses on their way to the API server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.kube.types import IP, PodStatus
from wasmlet.pods.report import patch

KEYS = st.sampled_from(["phase", "reason", "message", "startTime"])
STATUSES = st.dictionaries(KEYS, st.text(max_size=3))


def applied(before: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """What a merge patch makes of plain fields."""
    merged = before | change
    return {key: value for key, value in merged.items() if value is not None}


@given(STATUSES, STATUSES)
def test_a_patch_leads_from_one_status_to_the_next(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert applied(before, patch(before, after)) == after


@given(STATUSES)
def test_nothing_new_is_nothing_to_send(status: dict[str, Any]) -> None:
    assert patch(status, status) == {}


@pytest.mark.parametrize("key", ["podIPs", "hostIPs"])
def test_addresses_replace_each_other(key: str) -> None:
    before, after = {key: [{"ip": "10.0.0.1"}]}, {key: [{"ip": "10.0.0.2"}]}
    assert patch(before, after) == {key: [{"ip": "10.0.0.2"}, {"$patch": "replace"}]}
    assert patch({}, after) == {key: [{"ip": "10.0.0.2"}]}


def test_a_status_is_named_as_the_api_names_it() -> None:
    status = PodStatus(phase="Running", pod_ip="10.0.0.1", pod_ips=[IP(ip="10.0.0.1")])
    assert patch({}, msgspec.to_builtins(status)) == {
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
    }  # fmt: skip
