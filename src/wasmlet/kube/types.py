"""The Kubernetes objects wasmlet reads and writes: a subset of core/v1 as msgspec Structs.

Names are the API's own, in snake_case here and camelCase on the wire; unknown fields are ignored on decoding (skew
rule, kubelet-contract section 15). Leaves are `gc=False` (they hold no cycles), which keeps a thousand pods cheap.
Quantities stay strings until somebody computes with them (`base.quantity`). Times are RFC 3339 strings, as the API
sends them.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Leaf(msgspec.Struct, rename="camel", omit_defaults=True, gc=False, kw_only=True):
    """Base of structs that hold no containers of structs."""


class Node(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base of structs that hold other structs."""


# --- metadata ---------------------------------------------------------------------------------------------------------


class OwnerReference(Leaf):
    """metav1.OwnerReference."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class ObjectMeta(Node):
    """metav1.ObjectMeta, the fields a node agent reads."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []
    finalizers: list[str] = []


# --- configuration objects --------------------------------------------------------------------------------------------


class ConfigMap(Node):
    """v1 ConfigMap; `binary_data` values are base64 text as on the wire."""

    api_version: str = "v1"
    kind: str = "ConfigMap"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}
    immutable: bool | None = None


class Secret(Node):
    """v1 Secret; `data` values are base64 text as on the wire, `string_data` is plain (write only in the API)."""

    api_version: str = "v1"
    kind: str = "Secret"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    type: str = "Opaque"
    data: dict[str, str] = {}
    string_data: dict[str, str] = {}
    immutable: bool | None = None

    def __repr__(self) -> str:
        keys = sorted({*self.data, *self.string_data})
        return f"Secret({self.metadata.namespace}/{self.metadata.name} keys={keys})"


# --- environment ------------------------------------------------------------------------------------------------------


class KeySelector(Leaf):
    """A key of a ConfigMap or Secret named `name`."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class ObjectFieldSelector(Leaf):
    """fieldRef."""

    field_path: str = ""
    api_version: str = "v1"


class ResourceFieldSelector(Leaf):
    """resourceFieldRef; `divisor` is a quantity, default "1"."""

    resource: str = ""
    container_name: str = ""
    divisor: str | int | float | None = None


class FileKeySelector(Leaf):
    """fileKeyRef: a variable from a file in an emptyDir volume (gate EnvFiles)."""

    volume_name: str = ""
    path: str = ""
    key: str = ""
    optional: bool | None = None


class EnvVarSource(Node):
    """env[].valueFrom: exactly one is set."""

    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None
    file_key_ref: FileKeySelector | None = None


class EnvVar(Node):
    """env[]."""

    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class ObjectReference(Leaf):
    """A named object, optional or not (envFrom sources)."""

    name: str = ""
    optional: bool | None = None


class EnvFromSource(Node):
    """envFrom[]."""

    prefix: str = ""
    config_map_ref: ObjectReference | None = None
    secret_ref: ObjectReference | None = None


# --- volumes ----------------------------------------------------------------------------------------------------------


class KeyToPath(Leaf):
    """items[] of configMap, secret and projected sources; `mode` is decimal on the wire (0644 = 420)."""

    key: str = ""
    path: str = ""
    mode: int | None = None


class ConfigMapVolume(Node):
    """configMap volume; `name` may be empty inside projected sources only when optional."""

    name: str = ""
    items: list[KeyToPath] = []
    default_mode: int | None = None
    optional: bool | None = None


class SecretVolume(Node):
    """secret volume (its name field is `secretName`)."""

    secret_name: str = ""
    items: list[KeyToPath] = []
    default_mode: int | None = None
    optional: bool | None = None


class DownwardFile(Node):
    """items[] of a downwardAPI volume."""

    path: str = ""
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardVolume(Node):
    """downwardAPI volume."""

    items: list[DownwardFile] = []
    default_mode: int | None = None


class ServiceAccountTokenProjection(Leaf):
    """serviceAccountToken source of a projected volume."""

    path: str = ""
    audience: str = ""
    expiration_seconds: int | None = None


class ProjectedObject(Node):
    """configMap or secret source of a projected volume (both name the object `name`)."""

    name: str = ""
    items: list[KeyToPath] = []
    optional: bool | None = None


class VolumeProjection(Node):
    """sources[] of a projected volume: exactly one is set."""

    config_map: ProjectedObject | None = None
    secret: ProjectedObject | None = None
    downward_api: DownwardVolume | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None
    cluster_trust_bundle: dict[str, Any] | None = None
    pod_certificate: dict[str, Any] | None = None


class ProjectedVolume(Node):
    """projected volume."""

    sources: list[VolumeProjection] = []
    default_mode: int | None = None


class EmptyDirVolume(Leaf):
    """emptyDir volume; medium "" or "Memory"."""

    medium: str = ""
    size_limit: str | int | None = None


class HostPathVolume(Leaf):
    """hostPath volume."""

    path: str = ""
    type: str | None = None


class ImageVolume(Leaf):
    """image volume."""

    reference: str = ""
    pull_policy: str = ""


class Volume(Node):
    """spec.volumes[]: a name and one source. Sources wasmlet does not know stay out, and `kind()` says none."""

    name: str
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    projected: ProjectedVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(default=None, name="downwardAPI")
    empty_dir: EmptyDirVolume | None = None
    host_path: HostPathVolume | None = None
    image: ImageVolume | None = None
    persistent_volume_claim: dict[str, Any] | None = None
    csi: dict[str, Any] | None = None
    ephemeral: dict[str, Any] | None = None
    nfs: dict[str, Any] | None = None
    iscsi: dict[str, Any] | None = None


class VolumeMount(Leaf):
    """containers[].volumeMounts[]."""

    name: str = ""
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    read_only: bool = False
    recursive_read_only: str | None = None
    mount_propagation: str | None = None


# --- containers -------------------------------------------------------------------------------------------------------


class ContainerPort(Leaf):
    """containers[].ports[]."""

    name: str = ""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    protocol: str = "TCP"


class ResourceRequirements(Node):
    """requests and limits; values are quantities (YAML may deliver numbers)."""

    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}


class HTTPHeader(Leaf):
    """httpGet.httpHeaders[]."""

    name: str = ""
    value: str = ""


class HTTPGetAction(Node):
    """httpGet of probes and hooks; `port` is a number or a containerPort's name."""

    port: int | str = 0
    path: str = ""
    host: str = ""
    scheme: str = ""
    http_headers: list[HTTPHeader] = []


class TCPSocketAction(Leaf):
    """tcpSocket of probes."""

    port: int | str = 0
    host: str = ""


class GRPCAction(Leaf):
    """grpc of probes."""

    port: int = 0
    service: str | None = None


class ExecAction(Node):
    """exec of probes and hooks."""

    command: list[str] = []


class SleepAction(Leaf):
    """sleep of hooks."""

    seconds: int = 0


class Probe(Node):
    """Liveness, readiness or startup probe; defaults as in the API (contract section 5)."""

    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    exec: ExecAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class LifecycleHandler(Node):
    """One hook."""

    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    exec: ExecAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(Node):
    """postStart and preStop hooks."""

    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None
    stop_signal: str | None = None


class ExitCodes(Node):
    """exitCodes of a restart rule; operator In or NotIn."""

    operator: str = "In"
    values: list[int] = []


class RestartRule(Node):
    """restartPolicyRules[]; action Restart or RestartAllContainers."""

    action: str = "Restart"
    exit_codes: ExitCodes | None = None


class AppArmorProfile(Leaf):
    """securityContext.appArmorProfile; type RuntimeDefault, Localhost or Unconfined."""

    type: str = ""
    localhost_profile: str | None = None


class ContainerSecurityContext(Node):
    """containers[].securityContext, the fields that mean something for a Wasm sandbox."""

    app_armor_profile: AppArmorProfile | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    privileged: bool | None = None


class Container(Node):
    """spec.containers[], initContainers[] and ephemeralContainers[]."""

    name: str
    image: str = ""
    image_pull_policy: str = ""
    command: list[str] = []
    args: list[str] = []
    working_dir: str = ""
    ports: list[ContainerPort] = []
    env: list[EnvVar] = []
    env_from: list[EnvFromSource] = []
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    volume_mounts: list[VolumeMount] = []
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    restart_policy: str | None = None
    restart_policy_rules: list[RestartRule] = []
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    security_context: ContainerSecurityContext | None = None


# --- pod --------------------------------------------------------------------------------------------------------------


class LocalObjectReference(Leaf):
    """imagePullSecrets[]."""

    name: str = ""


class Toleration(Leaf):
    """spec.tolerations[]."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class HostAlias(Node):
    """spec.hostAliases[]."""

    ip: str = ""
    hostnames: list[str] = []


class DNSOption(Leaf):
    """dnsConfig.options[]."""

    name: str = ""
    value: str | None = None


class DNSConfig(Node):
    """spec.dnsConfig."""

    nameservers: list[str] = []
    searches: list[str] = []
    options: list[DNSOption] = []


class ReadinessGate(Leaf):
    """spec.readinessGates[]."""

    condition_type: str = ""


class Sysctl(Leaf):
    """spec.securityContext.sysctls[]."""

    name: str = ""
    value: str = ""


class PodSecurityContext(Node):
    """spec.securityContext, the fields that mean something here."""

    app_armor_profile: AppArmorProfile | None = None
    supplemental_groups_policy: str | None = None
    sysctls: list[Sysctl] = []
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None


class PodOS(Leaf):
    """spec.os."""

    name: str = ""


class PodResourceClaim(Leaf):
    """spec.resourceClaims[]: devices by dynamic resource allocation."""

    name: str = ""


class PodSpec(Node):
    """v1 PodSpec."""

    containers: list[Container] = []
    init_containers: list[Container] = []
    ephemeral_containers: list[Container] = []
    volumes: list[Volume] = []
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: DNSConfig | None = None
    node_selector: dict[str, str] = {}
    affinity: dict[str, Any] | None = None
    tolerations: list[Toleration] = []
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    node_name: str = ""
    host_network: bool = False
    host_users: bool | None = None
    hostname: str = ""
    subdomain: str = ""
    hostname_override: str | None = None
    set_hostname_as_fqdn: bool | None = msgspec.field(default=None, name="setHostnameAsFQDN")
    host_aliases: list[HostAlias] = []
    image_pull_secrets: list[LocalObjectReference] = []
    security_context: PodSecurityContext | None = None
    readiness_gates: list[ReadinessGate] = []
    runtime_class_name: str | None = None
    enable_service_links: bool | None = None
    priority: int | None = None
    priority_class_name: str = ""
    overhead: dict[str, str | int | float] = {}
    resources: ResourceRequirements | None = None
    resource_claims: list[PodResourceClaim] = []
    os: PodOS | None = None
    share_process_namespace: bool | None = None


class ContainerStateWaiting(Leaf):
    """state.waiting."""

    reason: str = ""
    message: str = ""


class ContainerStateRunning(Leaf):
    """state.running."""

    started_at: str | None = None


class ContainerStateTerminated(Leaf):
    """state.terminated."""

    exit_code: int
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str = msgspec.field(default="", name="containerID")


class ContainerState(Node):
    """Exactly one is set."""

    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class VolumeMountStatus(Leaf):
    """containerStatuses[].volumeMounts[]."""

    name: str = ""
    mount_path: str = ""
    read_only: bool = False
    recursive_read_only: str | None = None


class ContainerStatus(Node, omit_defaults=False):
    """containerStatuses[] and its two siblings (contract 4.4)."""

    name: str
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    last_state: ContainerState = msgspec.field(default_factory=ContainerState)
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    container_id: str = msgspec.field(default="", name="containerID")
    volume_mounts: list[VolumeMountStatus] = []


class PodCondition(Leaf):
    """status.conditions[]."""

    type: str = ""
    status: str = ""
    observed_generation: int = 0
    last_probe_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class IP(Leaf):
    """podIPs[] and hostIPs[]."""

    ip: str = ""


class PodStatus(Node):
    """v1 PodStatus."""

    observed_generation: int = 0
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[PodCondition] = []
    host_ip: str = msgspec.field(default="", name="hostIP")
    host_ips: list[IP] = msgspec.field(default_factory=list, name="hostIPs")
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[IP] = msgspec.field(default_factory=list, name="podIPs")
    start_time: str | None = None
    qos_class: str = ""
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []
    ephemeral_container_statuses: list[ContainerStatus] = []


class Pod(Node):
    """v1 Pod."""

    api_version: str = "v1"
    kind: str = "Pod"
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)
