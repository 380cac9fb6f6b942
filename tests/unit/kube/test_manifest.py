"""Manifests: what kubectl would read is what is read here."""

import contextlib
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wasmlet.base.errors import UserError
from wasmlet.kube.manifest import MAX_BYTES, Manifest, parse

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n"


def read(text: str) -> Manifest:
    return parse(text, source="pod.yaml")


def data(text: str) -> dict[str, str]:
    """The data of a ConfigMap whose keys and values are given as flow YAML."""
    (made,) = read(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {text}\n").config_maps
    return made.data


# --- documents --------------------------------------------------------------------------------------------------------


def test_documents_of_three_kinds_in_their_order() -> None:
    manifest = read(
        f"---\n{POD}---\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: own}}\n"
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n---\n" + POD.replace("name: p", "name: q")
    )
    assert [each.metadata.name for each in manifest.pods] == ["p", "q"]
    assert [each.metadata.namespace for each in manifest.secrets] == ["own"]
    assert [each.metadata.namespace for each in manifest.config_maps] == ["default"]
    assert manifest.warnings == []


def test_a_list_is_its_items() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n- " + POD.replace("\n", "\n  ").strip()
    assert [each.metadata.name for each in read(text).pods] == ["p"]


def test_json_is_yaml() -> None:
    text = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}'
    assert read(text).pods[0].spec.containers[0].image == "i"


@pytest.mark.parametrize("text", ["", "\n", "---\n", "# nothing\n", "null\n", "---\n---\n"])
def test_nothing_is_nothing(text: str) -> None:
    assert read(text) == Manifest()


def test_nulls_mean_unset() -> None:
    spec = read(
        POD.replace("spec: {", "spec: {volumes: null, restartPolicy: null, nodeSelector: {a: null}, ").replace(
            "image: i", "image: i, args: null, resources: null, env: [{name: A, value: null}]"
        )
    ).pods[0].spec  # fmt: skip
    assert (spec.volumes, spec.restart_policy, spec.node_selector) == ([], "Always", {})
    assert spec.containers[0].env[0].value == ""


# --- scalars, as Go's sigs.k8s.io/yaml reads them ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "scalar",
    ["y", "n", "Y", "N", "2001-01-01", "12:30:45", "0x", "0o9", "1_a", "=", "<", "-", "no1", "0b2", ".", "+", "1.2.3"],
)
def test_text_stays_text(scalar: str) -> None:
    assert data(f"{{a: {scalar}}}" if scalar not in "-=<" else f"{{a: '{scalar}'}}") == {"a": scalar}


@pytest.mark.parametrize(
    "scalar", ["yes", "No", "on", "OFF", "true", "False", "1", "0x1F", "017", "0o17", "1e3", ".5", "1.", "08", ".inf"]
)
def test_what_is_no_text_is_refused_where_text_belongs(scalar: str) -> None:
    with pytest.raises(UserError, match=r"data\[...\]: expected `str`"):
        data(f"{{a: {scalar}}}")


@pytest.mark.parametrize("scalar", ["~", "null", "Null", "NULL", ""])
def test_nulls(scalar: str) -> None:
    assert data(f"{{a: {scalar}}}") == {}


@pytest.mark.parametrize(
    ("scalar", "number"),
    [("420", 420), ("0644", 420), ("0o644", 420), ("0x1a4", 420), ("0b110100100", 420), ("4_20", 420), ("-1", -1)],
)
def test_numbers(scalar: str, number: int) -> None:
    text = POD.replace("spec: {", f"spec: {{volumes: [{{name: v, configMap: {{defaultMode: {scalar}}}}}], ")
    volume = read(text).pods[0].spec.volumes[0]
    assert volume.config_map is not None
    assert volume.config_map.default_mode == number


@pytest.mark.parametrize(("scalar", "value"), [("1e3", 1000.0), ("500m", "500m"), ("2", 2), (".5", 0.5), ("'2'", "2")])
def test_quantities(scalar: str, value: object) -> None:
    text = POD.replace("image: i", f"image: i, resources: {{limits: {{cpu: {scalar}}}}}")
    assert read(text).pods[0].spec.containers[0].resources.limits == {"cpu": value}


def test_keys_that_look_like_something_else_are_text() -> None:
    assert data("{1: a, true: b, 1.5: c, 1e3: d}") == {"1": "a", "true": "b", "1.5": "c", "1000": "d"}


def test_merge_keys_and_aliases() -> None:
    assert data("{<<: {a: x, b: y}, b: z}") == {"a": "x", "b": "z"}
    assert data("{b: z, <<: [{a: x, b: y}, {a: w, c: v}]}") == {"a": "x", "b": "z", "c": "v"}
    text = POD.replace("spec: {", "spec: {nodeSelector: &s {a: b}, ").replace("name: p", "name: p, labels: {c: d}")
    assert read(text).pods[0].spec.node_selector == {"a": "b"}


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b\n c: d\n", "pod.yaml is not YAML at line 2, column 3: mapping values are not allowed"),
        ("a: {b\n", "pod.yaml is not YAML at line 2, column 1"),
        ("a: 1\na: 2\n", "pod.yaml is not YAML at line 2, column 1: key 'a' is given twice"),
        ("a: *b\n", "alias 'b' stands for nothing before it"),
        ("!!python/object:os.system {}\n", "could not determine a constructor"),
        ("\0", "pod.yaml is not YAML"),
        ("- a\n", "pod.yaml is a list, not a Kubernetes object; see demos/"),
        ("text\n", "pod.yaml is text, not a Kubernetes object"),
        ("3\n", "pod.yaml is a number"),
        ("a: b\n", "pod.yaml has no kind"),
        (f"{POD}---\na: b\n", "pod.yaml, document 2 has no kind"),
        ("kind: Pod\n", "pod.yaml: Pod has apiVersion None; it must be v1"),
        ("apiVersion: apps/v1\nkind: Deployment\n", "kind Deployment cannot be run without a cluster; run its pod"),
        (
            "apiVersion: v1\nkind: Service\n",
            "kind Service cannot be run without a cluster; only Pod, ConfigMap, Secret",
        ),
        ("apiVersion: v1\nkind: [Pod]\n", "cannot be run without a cluster"),
        ("apiVersion: v1\nkind: {}\n", "cannot be run without a cluster"),
        (POD.replace("name: c,", ""), "Pod 'p': spec.containers[0]: object missing required field `name`"),
        (POD.replace("image: i", "image: 3"), "Pod 'p': spec.containers[0].image: expected `str`, got `int`"),
        (POD.replace("[{name: c, image: i}]", "{}"), "Pod 'p': spec.containers: expected `array`, got `object`"),
        (POD.replace("{name: p}", "p"), "Pod without metadata: metadata: expected `object`, got `str`"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read(text)


def test_a_text_that_is_too_large() -> None:
    with pytest.raises(UserError, match="a manifest may have"):
        read("#" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000, "a:\n" + "".join(" " * n + "b:\n" for n in range(3000))]
)
def test_depth_without_end_is_an_error(text: str) -> None:
    with pytest.raises(UserError):
        read(text)


def test_aliases_that_grow_without_bound_are_an_error() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(UserError):
        read(POD + "\n".join(levels) + "\n")


@pytest.mark.parametrize("text", ["&a [*a]", "&a {b: *a}", "kind: &a [*a]\napiVersion: v1", f"{POD}x: &a [*a]\n"])
def test_structures_that_hold_themselves_are_an_error(text: str) -> None:
    with pytest.raises(UserError):
        read(text)


# --- unknown fields ---------------------------------------------------------------------------------------------------


def test_unknown_fields_are_warned_of_with_their_path() -> None:
    manifest = read(
        POD.replace("image: i", "image: i, imge: j, resources: {limit: {}}").replace(
            "spec: {", "spec: {conainers: [], "
        )
        + "more: 1\n"
    )
    assert manifest.warnings == [
        "pod.yaml: Pod 'p': field 'spec.conainers' is unknown to wasmlet and ignored",
        "pod.yaml: Pod 'p': field 'spec.containers[0].imge' is unknown to wasmlet and ignored",
        "pod.yaml: Pod 'p': field 'spec.containers[0].resources.limit' is unknown to wasmlet and ignored",
        "pod.yaml: Pod 'p': field 'more' is unknown to wasmlet and ignored",
    ]


def test_fields_of_an_object_read_back_are_passed_over() -> None:
    text = POD.replace("name: p", "name: p, managedFields: [], selfLink: x")
    assert read(text + "status: {phase: Running}\n").warnings == []


def test_names_of_snake_case_are_unknown() -> None:
    assert "restart_policy" in read(POD.replace("spec: {", "spec: {restart_policy: Never, ")).warnings[0]


# --- anything ---------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["v1", "Pod", "ConfigMap", "Secret", "List"])
)
KEYS = st.sampled_from([
    "apiVersion", "kind", "metadata", "name", "namespace", "labels", "spec", "containers", "image", "env", "value",
    "volumes", "items", "data", "stringData", "resources", "limits", "ports", "livenessProbe", "httpGet", "port",
    "generation", "annotations", "valueFrom", "restartPolicyRules", "affinity",
]) | st.text(max_size=4)  # fmt: skip
STRUCTURES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


def only_user_errors(text: str) -> None:
    with contextlib.suppress(UserError):
        parse(text, source="x")


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    only_user_errors(text)


@settings(deadline=None)
@given(st.text(alphabet="{}[]:,-&*!|>'\"%@`#?~<= \n\t0aby.1_xo+e", max_size=60))
def test_any_text_that_looks_like_yaml_is_read_or_refused(text: str) -> None:
    only_user_errors(text)
    only_user_errors(POD + text)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(KEYS, STRUCTURES, max_size=4), st.sampled_from(["Pod", "ConfigMap", "Secret", "List", None]))
def test_any_structure_is_read_or_refused(structure: dict[str, Any], kind: str | None) -> None:
    document = structure | ({"apiVersion": "v1", "kind": kind} if kind else {})
    only_user_errors(yaml.safe_dump(document, allow_unicode=True))
