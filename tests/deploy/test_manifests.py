"""Manifests for Kubernetes, Compose, Ray's launcher and Slurm are safe, and have what `raytrail env` prints."""

import json
import re
import shlex
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from deploy.rendered import CHART, HERE, RENDERED, first_line
from jsonschema import Draft7Validator

from raytrail import export
from raytrail.cli.env import env
from raytrail.config import load

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = sorted((HERE / "helm" / "values").glob("*.yaml"))
REFUSED = sorted((HERE / "helm" / "refused").glob("*.yaml"))
KUBERAY = sorted((HERE / "kuberay").glob("*.yaml"))
WITH_AGENT = [path for path in KUBERAY if "collector" not in path.name]
OURS = {"history", "server", "raytrail"}
OURS_IN_COMPOSE = ("agent", "history", "server")


def named(path):
    return path.stem


def merged(base, over):
    """Return the chart's values as helm merges them."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{name: merged(base.get(name), value) for name, value in over.items()}}


def with_defaults(path):
    return merged(yaml.safe_load((CHART / "values.yaml").read_text()), yaml.safe_load(path.read_text()))


def below(value):
    """Yield a value and all that is in it."""
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from below(part)


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def pods(path):
    """Return each pod's specification in a file."""
    parts = (part for document in documents(path) for part in below(document))
    return [part for part in parts if isinstance(part, dict) and "containers" in part]


def printed(command):
    """Return what a `raytrail env` prints."""
    done = CliRunner().invoke(env, shlex.split(command)[2:])
    assert done.exit_code == 0, done.output
    return done.output


def command_in(path):
    """Return the command that a file says its settings are printed by."""
    [command] = re.findall(r"^#.*: (raytrail env .+)$", path.read_text(), re.MULTILINE)
    return command


# -- the chart


def test_the_schema_of_the_values_is_one_and_refuses_whatever_it_does_not_name():
    Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"].keys() - {"global"} == yaml.safe_load((CHART / "values.yaml").read_text()).keys()
    described = [part for part in below(SCHEMA["properties"]) if isinstance(part, dict) and "properties" in part]
    assert described
    assert all(part["additionalProperties"] is False for part in [SCHEMA, *described])


def test_there_are_thirteen_files_of_values_and_each_is_rendered():
    assert len(VALUES) == 13
    assert [path.name for path in VALUES] == [path.name for path in sorted(RENDERED.glob("*.yaml"))]


@pytest.mark.parametrize("path", VALUES, ids=named)
def test_these_values_are_accepted(path):
    assert not list(Draft7Validator(SCHEMA).iter_errors(with_defaults(path)))


@pytest.mark.parametrize("path", REFUSED, ids=named)
def test_these_values_are_refused(path):
    assert list(Draft7Validator(SCHEMA).iter_errors(with_defaults(path)))


@pytest.mark.parametrize("path", VALUES, ids=named)
def test_what_is_rendered_is_of_the_chart_as_it_is(path):
    assert (RENDERED / path.name).read_text().split("\n", 1)[0] == first_line(path), "run `make chart-write`"


@pytest.mark.parametrize("path", sorted(RENDERED.glob("*.yaml")), ids=named)
def test_a_pod_of_the_chart_has_no_rights(path):
    [pod] = pods(path)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert {container["name"] for container in pod["containers"]} == {"history", "server"}
    assert not {document["kind"] for document in documents(path)} & {"Role", "RoleBinding", "ClusterRole", "Secret"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all("hostPath" not in volume for volume in pod["volumes"])


@pytest.mark.parametrize("path", [*sorted(RENDERED.glob("*.yaml")), *WITH_AGENT], ids=named)
def test_a_container_of_ours_can_become_nothing_else(path):
    ours = [container for pod in pods(path) for container in pod["containers"] if container["name"] in OURS]
    assert len(ours) == 2
    for container in ours:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
        assert ":latest" not in container["image"]


@pytest.mark.parametrize("path", sorted(RENDERED.glob("*.yaml")), ids=named)
def test_the_server_only_reads_the_store_and_the_token_is_in_no_manifest(path):
    [pod] = pods(path)
    [server] = [container for container in pod["containers"] if container["name"] == "server"]
    [store] = [mount for mount in server["volumeMounts"] if mount["name"] == "store"]
    assert store["readOnly"] is True
    given = {variable["name"]: variable for variable in server["env"]}
    assert len(given.keys() & {f"RAYTRAIL_SERVER_{name}" for name in ("TOKEN", "USERS_FILE", "OPEN")}) == 1
    assert "value" not in given.get("RAYTRAIL_SERVER_TOKEN", {})


@pytest.mark.parametrize("path", sorted(RENDERED.glob("*.yaml")), ids=named)
def test_kubernetes_asks_history_and_server_how_they_are(path):
    [pod] = pods(path)
    for container in pod["containers"]:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe, page in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
            asked = container[f"{probe}Probe"]["httpGet"]
            assert asked["path"] == page
            assert asked["port"] in ports
    [history, _] = pod["containers"]
    [listens] = [variable["value"] for variable in history["env"] if variable["name"] == "RAYTRAIL_HISTORY_METRICS"]
    assert listens == f"0.0.0.0:{history['ports'][0]['containerPort']}"


def test_users_are_told_apart_by_a_file_of_a_secret_that_is_read_anew():
    [pod] = pods(RENDERED / "users.yaml")
    [_, server] = pod["containers"]
    [mount] = [mount for mount in server["volumeMounts"] if mount["name"] == "users"]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "users"]
    given = {variable["name"]: variable.get("value") for variable in server["env"]}
    assert Path(given["RAYTRAIL_SERVER_USERS_FILE"]).parent == Path(mount["mountPath"])
    assert "subPath" not in mount
    assert mount["readOnly"] is True
    assert volume["secret"]["secretName"] == "raytrail-users"


def test_nothing_is_deleted_unless_the_values_say_so():
    assert [path.name for path in sorted(RENDERED.glob("*.yaml")) if "_RETAIN_" in path.read_text()] == ["users.yaml"]
    [history, _] = pods(RENDERED / "users.yaml")[0]["containers"]
    read = load(None, {variable["name"]: variable.get("value", "") for variable in history["env"]}, {}).store
    assert (read.retain_days, read.retain_bytes) == (90, 160 * 2**30)
    assert read.retain_days_by_name == {"nightly-*": 7.5, "prod": 0}


# -- KubeRay


@pytest.mark.parametrize("path", WITH_AGENT, ids=named)
def test_an_agent_is_rays_own_user_and_sees_its_files(path):
    for pod in pods(path):
        [ray, agent] = pod["containers"]
        assert agent["securityContext"]["runAsUser"] == 1000  # of Ray's images
        assert agent["securityContext"]["runAsNonRoot"] is True
        assert agent["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"name": "ray", "mountPath": "/tmp/ray"} in ray["volumeMounts"]
        assert "/tmp/ray" in {mount["mountPath"] for mount in agent["volumeMounts"]}
        assert {"name": "ray", "emptyDir": {}} in pod["volumes"]


@pytest.mark.parametrize("path", WITH_AGENT, ids=named)
def test_an_agent_has_time_to_ship_the_rest_once_ray_has_ended(path):
    for pod in pods(path):
        [ray, agent] = pod["containers"]
        given = {variable["name"]: variable.get("value") for variable in agent["env"]}
        assert ray["lifecycle"]["preStop"]["exec"]["command"] == ["ray", "stop"]
        assert given["RAYTRAIL_AGENT_WITH_RAY"] == "true"
        # ... and ten seconds more, after which an agent that hangs ends by itself
        assert pod["terminationGracePeriodSeconds"] > float(given["RAYTRAIL_AGENT_DRAIN_SECONDS"]) + 10


@pytest.mark.parametrize("path", WITH_AGENT, ids=named)
def test_ray_has_the_settings_that_raytrail_env_prints(path):
    wanted = yaml.safe_load(printed(command_in(path)))
    assert [pod["containers"][0]["env"] for pod in pods(path)] == [wanted["env"], wanted["env"]]
    [head] = [part for part in below(documents(path)) if isinstance(part, dict) and "system-config" in part]
    assert head["system-config"] == wanted["rayStartParams"]["system-config"]


def test_the_collectors_cluster_has_some_of_the_settings_that_raytrail_env_prints():
    [path] = set(KUBERAY) - set(WITH_AGENT)
    wanted = {setting["name"]: setting["value"] for setting in yaml.safe_load(printed(command_in(path)))["env"]}
    for pod in pods(path):
        given = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}
        assert given.items() <= wanted.items()
        assert given.keys() >= {f"RAY_{name}" for name in export.HTTP_SWITCHES} | {export.HTTP_ADDRESS}


def test_the_receiver_listens_where_ray_posts_to():
    [agent] = {
        json.dumps(pod["containers"][1]["env"]) for pod in pods(HERE / "kuberay" / "raycluster-http-events.yaml")
    }
    receiver = {variable["name"]: variable.get("value") for variable in json.loads(agent)}["RAYTRAIL_SOURCES_RECEIVER"]
    assert f"--http-events {receiver} " in command_in(HERE / "kuberay" / "raycluster-http-events.yaml")


def test_a_job_deletes_its_cluster():
    [job] = documents(HERE / "kuberay" / "rayjob.yaml")
    assert job["spec"]["shutdownAfterJobFinishes"] is True


# -- all of them


@pytest.mark.parametrize("path", [*sorted(RENDERED.glob("*.yaml")), *WITH_AGENT, HERE / "compose.yaml"], ids=named)
def test_our_variables_are_settings_of_ours(path):
    ours = [container for pod in pods(path) for container in pod["containers"] if container["name"] in OURS]
    given = [
        {variable["name"]: variable.get("value", "a secret") for variable in container["env"]} for container in ours
    ]
    for document in documents(path):
        given += [document["services"][name]["environment"] for name in OURS_IN_COMPOSE if "services" in document]
    assert given
    for environment in given:
        assert any(name.startswith("RAYTRAIL_") for name in environment)
        load(None, environment, {})


# -- monitoring


def of_kind(name, kind):
    return [document for document in documents(RENDERED / name) if document["kind"] == kind]


def test_prometheus_operator_gets_the_alerts_as_they_are_but_for_the_page_of_runbooks():
    [rule] = of_kind("monitoring.yaml", "PrometheusRule")
    text = (HERE / "prometheus" / "alerts.yaml").read_text()
    page = "https://wiki.example/raytrail/runbooks"
    assert rule["spec"] == yaml.safe_load(text.replace("docs/how-to/runbooks.md", page))
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_grafana_gets_the_dashboard_as_it_is():
    [dashboard] = [
        config_map for config_map in of_kind("monitoring.yaml", "ConfigMap") if "raytrail.json" in config_map["data"]
    ]
    assert json.loads(dashboard["data"]["raytrail.json"]) == json.loads((HERE / "grafana/raytrail.json").read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_a_pod_that_is_scraped_has_the_ports_and_lets_prometheus_in():
    [monitor] = of_kind("monitoring.yaml", "PodMonitor")
    wanted = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    [pod] = pods(RENDERED / "monitoring.yaml")
    assert {port["name"] for container in pod["containers"] for port in container.get("ports", [])} == wanted
    [policy] = of_kind("monitoring.yaml", "NetworkPolicy")
    assert {port["port"] for port in policy["spec"]["ingress"][0]["ports"]} == wanted


@pytest.mark.parametrize("path", [path for path in VALUES if "monitoring:" not in path.read_text()], ids=named)
def test_nothing_of_monitoring_is_there_unless_it_is_wanted(path):
    assert "monitoring.coreos.com" not in (RENDERED / path.name).read_text()


# -- elsewhere


def test_ray_in_compose_has_the_settings_that_raytrail_env_prints():
    services = yaml.safe_load((HERE / "compose.yaml").read_text())["services"]
    lines = [line for line in printed(command_in(HERE / "compose.yaml")).splitlines() if not line.startswith("#")]
    assert services["ray"]["environment"] == dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("name", OURS_IN_COMPOSE)
def test_a_service_of_compose_has_no_rights(name):
    service = yaml.safe_load((HERE / "compose.yaml").read_text())["services"][name]
    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_launcher_starts_ray_as_raytrail_env_prints():
    given = yaml.safe_load((HERE / "ray-up.yaml").read_text())
    for name, commands in yaml.safe_load(printed(command_in(HERE / "ray-up.yaml"))).items():
        assert given[name][:-1] == commands
        assert given[name][-1].startswith("nohup raytrail agent ")


def test_the_launcher_of_ray_knows_all_that_it_is_told():
    schema = json.loads(Path(str(distribution("ray").locate_file("ray/autoscaler/ray-schema.json"))).read_text())
    assert not list(Draft7Validator(schema).iter_errors(yaml.safe_load((HERE / "ray-up.yaml").read_text())))


def test_the_script_for_slurm_can_be_read_by_bash():
    subprocess.run(["bash", "-n", HERE / "slurm.sh"], check=True)
