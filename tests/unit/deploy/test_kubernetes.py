"""deploy/kubernetes, rendered by kustomize: valid by the schemas, consistent in itself and with the gateway, and hardened."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
from pydantic import ByteSize, TypeAdapter

from anabranch.document.compile import compile_file
from anabranch.settings import Settings
from tests.support.manifests import KUBERNETES, Cluster, Manifest, overlay, port_names, render, write_kustomization
from tests.support.paths import ROOT

COMPONENTS = sorted(folder.name for folder in (KUBERNETES / "components").iterdir())
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
WITHOUT_SCHEMA = {("monitoring.coreos.com/v1", "ServiceMonitor"), ("gateway.networking.k8s.io/v1", "HTTPRoute")}
"""Kinds that a cluster gets from elsewhere. Any other unknown kind fails."""
OLDEST = "1.27"
SECRETS = {"anabranch-secrets": {"orders-token", "admin-token"}, "anabranch-tls": {"tls.crt", "tls.key"}}
"""What the operator makes, and no file here holds."""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The base with all components."""
    return Cluster(tuple(render(write_kustomization(tmp_path_factory.mktemp("all"), components=COMPONENTS))))


@pytest.fixture(params=[*OVERLAYS, "everything", "template"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "template":
        return Cluster(tuple(render(ROOT / "deploy" / "template" / "kubernetes")))
    if request.param != "everything":
        return overlay(request.param)
    found = request.getfixturevalue("everything")
    assert isinstance(found, Cluster)
    return found


def name(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


# ------------------------------------------------------------------------------------------------------------------ schemas


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_every_manifest_is_valid_by_the_schema_of_its_kind(cluster: Cluster, version: str) -> None:
    for manifest in cluster.manifests:
        if (manifest["apiVersion"], manifest["kind"]) not in WITHOUT_SCHEMA:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_oldest_supported_version_is_named() -> None:
    assert f"oldest supported Kubernetes is {OLDEST} " in (ROOT / "docs" / "kubernetes.md").read_text("utf-8")


def test_schemas_reject_a_misspelt_key() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"selektor": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(wrong | {"kind": "Servise"}, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_works_with_the_base_alone(component: str, tmp_path: Path) -> None:
    assert Cluster(tuple(render(write_kustomization(tmp_path, components=[component])))).get("Deployment", "anabranch")


def test_no_two_manifests_are_the_same_object_and_all_are_in_one_namespace(cluster: Cluster) -> None:
    names = [name(manifest) for manifest in cluster.manifests]
    assert len(set(names)) == len(names)
    assert len({manifest["metadata"].get("namespace") for manifest in cluster.manifests if manifest["kind"] != "Namespace"}) == 1


# --------------------------------------------------------------------------------------------------------- cross-references


def test_every_deployment_selects_its_own_pods_only(cluster: Cluster) -> None:
    for deployment in cluster.of_kind("Deployment"):
        assert cluster.pods_with(deployment["spec"]["selector"]["matchLabels"]) == [deployment]


def test_every_service_targets_a_port_of_existing_pods(cluster: Cluster) -> None:
    for service in cluster.of_kind("Service"):
        (deployment,) = cluster.pods_with(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= port_names(deployment), name(service)


def test_only_the_admin_service_targets_the_admin_port(cluster: Cluster) -> None:
    leading = [service["metadata"]["name"] for service in cluster.of_kind("Service") if "admin" in port_names(service)]
    assert leading in ([], ["anabranch-admin"])


def test_probes_use_ports_and_paths_that_exist(cluster: Cluster) -> None:
    for deployment, container in cluster.containers():
        paths = {"/livez", "/readyz"} if deployment["metadata"]["name"] == "anabranch" else {"/health"}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] in {port["name"] for port in container["ports"]}
            assert asked["path"] in paths


def test_liveness_never_depends_on_other_services(cluster: Cluster) -> None:
    (gateway,) = cluster.get("Deployment", "anabranch")["spec"]["template"]["spec"]["containers"]
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_config_maps_used_by_pods_are_generated_here(cluster: Cluster) -> None:
    for deployment, container in cluster.containers():
        pod = deployment["spec"]["template"]["spec"]
        wanted = [source["configMapRef"]["name"] for source in container.get("envFrom", [])]
        wanted += [volume["configMap"]["name"] for volume in pod.get("volumes", []) if "configMap" in volume]
        for one in wanted:
            assert re.search(r"-[a-z0-9]{10}$", cluster.get("ConfigMap", one)["metadata"]["name"]), "a change must be a rolling update"


def test_every_secret_in_use_is_documented_for_the_operator(cluster: Cluster) -> None:
    used = set()
    for deployment, container in cluster.containers():
        keys = [one["valueFrom"]["secretKeyRef"] for one in container.get("env", []) if "secretKeyRef" in one.get("valueFrom", {})]
        used |= {(key["name"], key["key"]) for key in keys}
        for volume in deployment["spec"]["template"]["spec"].get("volumes", []):
            used |= {(volume["secret"]["secretName"], item["key"]) for item in volume.get("secret", {}).get("items", [])}
    for monitor in cluster.of_kind("ServiceMonitor"):
        credentials = [one["authorization"]["credentials"] for one in monitor["spec"]["endpoints"] if "authorization" in one]
        used |= {(one["name"], one["key"]) for one in credentials}
    assert {(secret, key) for secret, key in used if key not in SECRETS.get(secret, set())} == set()
    assert cluster.of_kind("Secret") == []


def test_every_volume_exists_and_is_mounted(cluster: Cluster) -> None:
    for deployment, container in cluster.containers():
        volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"].get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes


def test_autoscaler_budget_account_and_policies_select_existing_pods(cluster: Cluster) -> None:
    for scaler in cluster.of_kind("HorizontalPodAutoscaler"):
        target = cluster.get(scaler["spec"]["scaleTargetRef"]["kind"], scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"], "an apply would undo what the autoscaler did"
        assert scaler["spec"]["minReplicas"] >= 2
        requests = target["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
        assert "cpu" in requests, "utilization is a share of what is requested"
    for budget in cluster.of_kind("PodDisruptionBudget"):
        assert cluster.pods_with(budget["spec"]["selector"]["matchLabels"])
    for policy in cluster.of_kind("NetworkPolicy"):
        chosen = cluster.pods_with(policy["spec"]["podSelector"]["matchLabels"])
        ports = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert chosen
        assert all(ports <= port_names(deployment) for deployment in chosen)
    for deployment in cluster.of_kind("Deployment"):
        account = deployment["spec"]["template"]["spec"].get("serviceAccountName")
        assert account is None or cluster.get("ServiceAccount", account)
        for spread in deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert cluster.pods_with(spread["labelSelector"]["matchLabels"]) == [deployment]


def test_routes_and_monitors_target_existing_services(everything: Cluster) -> None:
    ports = {service["metadata"]["name"]: service for service in everything.of_kind("Service")}
    (route,) = everything.of_kind("HTTPRoute")
    for backend in (one for rule in route["spec"]["rules"] for one in rule["backendRefs"]):
        assert backend["port"] in {port["port"] for port in ports[backend["name"]]["spec"]["ports"]}
    (ingress,) = everything.of_kind("Ingress")
    for path in (one for rule in ingress["spec"]["rules"] for one in rule["http"]["paths"]):
        backend = path["backend"]["service"]
        assert backend["port"]["name"] in port_names(ports[backend["name"]])
    assert ingress["spec"]["tls"][0]["secretName"] in SECRETS
    (monitor,) = everything.of_kind("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (watched,) = [service for service in ports.values() if wanted <= service["metadata"]["labels"].items()]
    assert {one["port"] for one in monitor["spec"]["endpoints"]} <= port_names(watched)


# --------------------------------------------------------------------------------------------------------- what we know of us


def settings_of(cluster: Cluster) -> dict[str, str]:
    (container,) = cluster.get("Deployment", "anabranch")["spec"]["template"]["spec"]["containers"]
    data: dict[str, str] = cluster.get("ConfigMap", container["envFrom"][0]["configMapRef"]["name"])["data"]
    assert "env" not in container, "settings stand in the ConfigMap, secrets in files"
    return data


def secret_files(cluster: Cluster) -> set[str]:
    """Paths of the mounted secrets in the gateway's container."""
    pod = cluster.get("Deployment", "anabranch")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"]["items"] for volume in pod["volumes"] if "secret" in volume}
    return {f"{mounts[volume]}/{item['path']}" for volume, items in secrets.items() for item in items}


def test_every_setting_exists_and_has_a_valid_value(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = {key: value for key, value in settings_of(cluster).items() if key.startswith("ANABRANCH_")}
    assert {key.removeprefix("ANABRANCH_").lower() for key in ours} <= Settings.model_fields.keys()
    for key, value in ours.items():
        monkeypatch.setenv(key, value)
    if token := ours.get("ANABRANCH_ADMIN_TOKEN_FILE"):
        (tmp_path / "token").write_text("a-secret-of-the-operator", "utf-8")
        assert token in secret_files(cluster)
        monkeypatch.setenv("ANABRANCH_ADMIN_TOKEN_FILE", str(tmp_path / "token"))
    Settings(_env_file=None)


def test_container_ports_match_the_ports_of_the_gateway(cluster: Cluster) -> None:
    (container,) = cluster.get("Deployment", "anabranch")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    image = (ROOT / "Dockerfile").read_text("utf-8")
    assert f"ANABRANCH_PORT={ports['http']}" in image
    assert settings_of(cluster)["ANABRANCH_ADMIN_PORT"] == str(ports["admin"])


def test_grace_period_of_a_pod_covers_its_drain(cluster: Cluster) -> None:
    settings = settings_of(cluster)
    pod = cluster.get("Deployment", "anabranch")["spec"]["template"]["spec"]
    needed = float(settings["ANABRANCH_DRAIN_DELAY_S"]) + float(settings["ANABRANCH_SHUTDOWN_TIMEOUT_S"]) + 10
    assert pod["terminationGracePeriodSeconds"] >= needed
    probe = pod["containers"][0]["readinessProbe"]
    assert float(settings["ANABRANCH_DRAIN_DELAY_S"]) > 0 < probe["periodSeconds"]


def test_service_links_are_off_because_they_would_set_our_port(cluster: Cluster) -> None:
    for deployment in cluster.of_kind("Deployment"):
        assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("which", OVERLAYS)
def test_mounted_documents_compile(which: str, tmp_path: Path) -> None:
    """A ConfigMap's folder: its files are links through another link, which is swapped on updates."""
    cluster = overlay(which)
    pod = cluster.get("Deployment", "anabranch")["spec"]["template"]["spec"]
    (volume,) = [volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "document"]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    mount = tmp_path / "mount"
    (mount / "..2026").mkdir(parents=True)
    (mount / "..data").symlink_to("..2026")
    for key, text in cluster.get("ConfigMap", volume)["data"].items():
        (mount / "..2026" / key).write_text(text.replace("/etc/anabranch-secrets", str(secrets)), "utf-8")
        (mount / key).symlink_to(f"..data/{key}")
        for secret in re.findall(r"\$\{file:/etc/anabranch-secrets/([^}]+)\}", text):
            (secrets / secret).write_text("s3cret-of-the-operator", "utf-8")
    compiled = compile_file(mount, settings_of(cluster))
    assert compiled.plan.endpoints
    assert compiled.warnings == []


def test_secret_files_that_the_document_reads_are_mounted() -> None:
    text = (KUBERNETES / "overlays" / "production" / "gateway.yaml").read_text("utf-8")
    read = set(re.findall(r"\$\{file:([^}]+)\}", text))
    assert read
    assert read <= secret_files(overlay("production"))


def test_demo_overlay_uses_the_document_of_the_demo() -> None:
    assert (KUBERNETES / "overlays" / "demo" / "gateway.yaml").read_text("utf-8") == (ROOT / "demo" / "gateway.yaml").read_text("utf-8"), (
        "run `make openapi`"
    )


def test_demo_overlay_sets_the_address_of_each_service() -> None:
    cluster = overlay("demo")
    told = {key: value for key, value in settings_of(cluster).items() if key.endswith("_URL")}
    assert told.keys() == set(re.findall(r"\$\{(\w+_URL):-", (ROOT / "demo" / "gateway.yaml").read_text("utf-8")))
    for url in told.values():
        host, port = url.removeprefix("http://").split(":")
        service = cluster.get("Service", host)
        assert int(port) in {one["port"] for one in service["spec"]["ports"]}
        (deployment,) = cluster.pods_with(service["spec"]["selector"])
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["python", "-m", f"demo.{host}", "--host", "0.0.0.0", "--port", port]
        assert container["ports"][0]["containerPort"] == int(port)


# ---------------------------------------------------------------------------------------------------------------- hardening


def test_pods_do_not_run_as_root_and_have_no_token(cluster: Cluster) -> None:
    for deployment in cluster.of_kind("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert min(context["runAsUser"], context["runAsGroup"]) >= 10000
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert [volume for volume in pod.get("volumes", []) if "hostPath" in volume] == []
    for account in cluster.of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    assert cluster.of_kind("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []


def test_containers_cannot_gain_privileges_or_write_to_the_root_file_system(cluster: Cluster) -> None:
    for _, container in cluster.containers():
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["privileged"], context["readOnlyRootFilesystem"]) == (False, False, True)
        assert context["capabilities"] == {"drop": ["ALL"]}
        writable = {mount["mountPath"] for mount in container.get("volumeMounts", []) if not mount.get("readOnly")}
        assert writable <= {"/tmp", "/var/lib/anabranch"}
        assert [port for port in container["ports"] if "hostPort" in port] == []


def test_containers_have_requests_limits_and_an_explicit_tag(cluster: Cluster) -> None:
    for deployment, container in cluster.containers():
        for bound in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][bound].keys(), name(deployment)
        assert re.search(r":(?!latest$)[\w.-]+$", container["image"]), container["image"]
        assert all({"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys() for container in [container])


def test_journal_fits_its_volume_and_requests_are_bounded(cluster: Cluster) -> None:
    settings = settings_of(cluster)
    keep_size = TypeAdapter(ByteSize).validate_python(settings["ANABRANCH_JOURNAL_KEEP_SIZE"])
    (volume,) = [one for one in cluster.get("Deployment", "anabranch")["spec"]["template"]["spec"]["volumes"] if one["name"] == "journal"]
    claim = (
        volume.get("ephemeral", {}).get("volumeClaimTemplate", {}).get("spec", {}).get("resources", {}).get("requests", {}).get("storage")
    )
    size = TypeAdapter(ByteSize).validate_python(f"{claim or volume['emptyDir']['sizeLimit']}B")
    open_segment = 64 << 20
    assert keep_size + 2 * open_segment < size
    assert int(settings["ANABRANCH_MAX_REQUESTS"]) > 0


def test_names_are_resolved_wherever_the_dns_is(cluster: Cluster) -> None:
    rules = cluster.get("NetworkPolicy", "anabranch")["spec"]["egress"]
    assert [{port["protocol"] for port in rule["ports"]} for rule in rules if "to" not in rule] == [{"UDP", "TCP"}]
    assert all({port["port"] for port in rule["ports"]} == {53} for rule in rules if "to" not in rule), (
        "a rule without `to` opens everything"
    )


def test_spreading_over_zones_leaves_no_pod_pending(cluster: Cluster) -> None:
    pod = cluster.get("Deployment", "anabranch")["spec"]["template"]["spec"]
    assert {one["whenUnsatisfiable"] for one in pod["topologySpreadConstraints"]} == {"ScheduleAnyway"}


def test_writable_folders_have_a_size_limit(cluster: Cluster) -> None:
    for deployment in cluster.of_kind("Deployment"):
        for volume in deployment["spec"]["template"]["spec"].get("volumes", []):
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], f"{name(deployment)}: {volume['name']}"


def test_every_pod_has_a_network_policy_for_both_directions(cluster: Cluster) -> None:
    policies = cluster.of_kind("NetworkPolicy")
    for deployment in cluster.of_kind("Deployment"):
        about = [policy for policy in policies if deployment in cluster.pods_with(policy["spec"]["podSelector"]["matchLabels"])]
        assert about, name(deployment)
        assert all(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} for policy in about)


def test_admin_port_is_open_to_monitoring_only(cluster: Cluster) -> None:
    rules = cluster.get("NetworkPolicy", "anabranch")["spec"]["ingress"]
    (to_admin,) = [rule for rule in rules if {port["port"] for port in rule["ports"]} == {"admin"}]
    assert to_admin["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert all(rule["ports"] for rule in rules), "a rule without ports opens all of them"


@pytest.mark.parametrize("which", OVERLAYS)
def test_namespaces_enforce_the_restricted_standard(which: str) -> None:
    (namespace,) = overlay(which).of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
