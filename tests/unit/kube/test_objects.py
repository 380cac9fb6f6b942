"""Documents of a run as the source of ConfigMaps and Secrets."""

from __future__ import annotations

import base64

import pytest

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.kube.objects import Documents, config_map_content, secret_content
from wasmlet.kube.types import ConfigMap, ObjectMeta, Secret


async def test_string_data_is_merged_over_data() -> None:
    encoded = base64.b64encode(b"old").decode()
    secret = Secret(
        metadata=ObjectMeta(name="s", namespace="n"), data={"a": encoded, "b": encoded}, string_data={"b": "new"}
    )
    found = await Documents(secrets=[secret]).secret("n", "s")
    assert secret_content(found) == {"a": b"old", "b": b"new"}
    assert found.string_data == {}


async def test_a_missing_namespace_is_default_on_both_sides() -> None:
    documents = Documents(config_maps=[ConfigMap(metadata=ObjectMeta(name="c"), data={"k": "v"})])
    assert (await documents.config_map("default", "c")).data == {"k": "v"}
    assert (await documents.config_map("", "c")).data == {"k": "v"}


async def test_what_is_missing_is_told_as_the_api_server_does() -> None:
    with pytest.raises(NotFoundError) as caught:
        await Documents().config_map("n", "x")
    assert (str(caught.value), caught.value.reason) == ('configmap "x" not found', "NotFound")
    with pytest.raises(NotFoundError) as caught:
        await Documents().secret("n", "x")
    assert (str(caught.value), caught.value.reason) == ('secret "x" not found', "NotFound")


def test_binary_data_joins_data_and_folded_base64_is_read() -> None:
    folded = base64.encodebytes(b"x" * 100).decode()
    content = config_map_content(ConfigMap(data={"a": "é"}, binary_data={"b": folded}))
    assert content == {"a": "é".encode(), "b": b"x" * 100}


def test_bad_base64_names_the_key_and_never_the_value() -> None:
    with pytest.raises(UserError) as caught:
        secret_content(Secret(metadata=ObjectMeta(name="s", namespace="n"), data={"k": "hunter2!!"}))
    assert "key k of Secret n/s" in str(caught.value)
    assert "hunter2" not in repr(caught.value) + str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
