"""The manifests in deploy/.

kubernetes.yaml is validated against the JSON schemas of Kubernetes' API. For Knative there is no schema at hand: of service.yaml the
pod in it is validated as a pod of Kubernetes, and the rest is compared with what deploy.sh deploys.
"""

import shlex
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
KUBERNETES = {
    document["kind"]: document
    for document in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8"))
}
KNATIVE = yaml.safe_load((ROOT / "deploy/service.yaml").read_text(encoding="utf-8"))
# The oldest that has all that is used, and the newest known here.
VERSIONS = ["1.32", kubernetes_validate.latest_version()]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KUBERNETES)
def test_kubernetes_schema(kind, version):
    kubernetes_validate.validate(KUBERNETES[kind], version, strict=True)


def test_the_schema_sees_a_typing_error():
    broken = yaml.safe_load(yaml.safe_dump(KUBERNETES["Deployment"]))
    broken["spec"]["template"]["spec"]["containers"][0]["startupprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_kinds():
    assert set(KUBERNETES) == {
        "ServiceAccount", "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler",
    }  # fmt: skip
    assert {(one["metadata"]["name"], one["metadata"]["namespace"]) for one in KUBERNETES.values()} == {("ai-proxy", "ai-proxy")}


def test_kubernetes_parts_find_each_other():
    deployment = KUBERNETES["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert KUBERNETES["Service"]["spec"]["selector"] == labels
    assert KUBERNETES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert KUBERNETES["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    # The autoscaler's number would be overwritten by every `apply`.
    assert "replicas" not in deployment
    pod = deployment["template"]["spec"]
    assert pod["serviceAccountName"] == KUBERNETES["ServiceAccount"]["metadata"]["name"]
    container = pod["containers"][0]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in KUBERNETES["Service"]["spec"]["ports"]} <= ports
    assert {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} <= ports


def test_kubernetes_waits_for_the_drain():
    pod = KUBERNETES["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    grace = int(variables(container)["SHUTDOWN_GRACE_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + grace


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(KUBERNETES["Deployment"]["spec"]["template"]["spec"], id="kubernetes"),
        pytest.param(KNATIVE["spec"]["template"]["spec"], id="knative"),
    ],
)
def test_keys_come_from_a_mounted_secret(pod):
    container = pod["containers"][0]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (mount,) = container["volumeMounts"]
    secret = volumes[mount["name"]]["secret"]
    assert secret["secretName"] == "ai-proxy-api-keys"
    assert variables(container)["API_KEYS_FILE"] == f"{mount['mountPath']}/{secret['items'][0]['path']}"
    assert "API_KEYS_JSON" not in variables(container)


@pytest.mark.parametrize("path", ["deploy/kubernetes.yaml", "deploy/service.yaml"])
def test_nothing_is_of_one_person(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert "sk_live_" not in text
    assert "PROJECT" in text


def test_knative_pod_is_a_pod():
    spec = dict(KNATIVE["spec"]["template"]["spec"])
    # What Knative adds to a pod.
    assert isinstance(spec.pop("containerConcurrency"), int)
    assert isinstance(spec.pop("timeoutSeconds"), int)
    spec["containers"] = [{"name": "user-container", **container} for container in spec["containers"]]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ai-proxy"}, "spec": spec}
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def test_knative_frame():
    assert set(KNATIVE) == {"apiVersion", "kind", "metadata", "spec"}
    assert (KNATIVE["apiVersion"], KNATIVE["kind"]) == ("serving.knative.dev/v1", "Service")
    assert set(KNATIVE["spec"]) == {"template", "traffic"}
    assert set(KNATIVE["spec"]["template"]) == {"metadata", "spec"}
    assert KNATIVE["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]
    for annotations in (KNATIVE["metadata"]["annotations"], KNATIVE["spec"]["template"]["metadata"]["annotations"]):
        assert all(isinstance(value, str) for value in annotations.values())


def test_knative_is_what_deploy_sh_deploys(tmp_path):
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    command = ["bash", str(ROOT / "deploy.sh"), "--dry-run", "--project=my-project", "--service=ai-proxy", "--region=us-central1"]
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("gcloud run deploy ")]
    flags = dict(word.partition("=")[::2] for word in shlex.split(line) if word.startswith("--"))
    template = KNATIVE["spec"]["template"]
    spec, scale = template["spec"], template["metadata"]["annotations"]
    container = spec["containers"][0]
    probe = container["startupProbe"]
    mount = f"{container['volumeMounts'][0]['mountPath']}/{spec['volumes'][0]['secret']['items'][0]['path']}"
    assert {
        "--concurrency": str(spec["containerConcurrency"]),
        "--timeout": str(spec["timeoutSeconds"]),
        "--cpu": container["resources"]["limits"]["cpu"],
        "--memory": container["resources"]["limits"]["memory"],
        "--port": str(container["ports"][0]["containerPort"]),
        "--min-instances": scale["autoscaling.knative.dev/minScale"],
        "--max-instances": scale["autoscaling.knative.dev/maxScale"],
        "--service-account": spec["serviceAccountName"].replace("PROJECT", "my-project"),
        "--set-secrets": f"{mount}={spec['volumes'][0]['secret']['secretName']}:latest",
        "--startup-probe": f"httpGet.path={probe['httpGet']['path']},httpGet.port={probe['httpGet']['port']},"
        + ",".join(f"{name}={probe[name]}" for name in ("periodSeconds", "timeoutSeconds", "failureThreshold")),
    }.items() <= flags.items()
    assert container["ports"][0]["name"] == "http1" and "--no-use-http2" in flags


def variables(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}
