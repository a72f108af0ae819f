"""The manifests say the same as the other ways to run: one truth about processes."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
import sqlalchemy
import yaml
from sqlalchemy.exc import OperationalError

from flagon_chassis import db
from flagon_chassis.testing import free_port, lacking, start_postgres

from . import rules
from .manifests import (
    K8S,
    OVERLAYS,
    ROOT,
    combined,
    labels,
    overlay,
    pod,
    sidecars,
)

sys.path.insert(0, str(ROOT / "deploy" / "local"))
sys.path.insert(0, str(ROOT / "deploy" / "observability"))

from flagonctl import authority, configuration, environment, programs, vault
from flagonctl.problem import Problem
from flagonctl.processes import OWNERS, PROCESSES, SERVICES, WATCHERS
from flagonctl.stack import Stack
from flagonobs import cluster

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

ELSEWHERE = {
    # The defaults of production, or where there is a collector.
    *("OTLP_URL", "TRACES_PAGE", "TRACES_URL", "SENTRY_DSN", "RATE_LIMIT"),
    *("LOGIN_ADDRESS_LIMIT", "REGISTER_LIMIT", "CONNECTIONS_PER_ADDRESS"),
    # Only the job has these.
    *("CLIENTS_FILE", "ACCOUNTS_FILE"),
    # For tests and development on one machine; refused in production.
    "WEBHOOK_LOOPBACK",
    # The images say which they are.
    "RELEASE",
    # There mails wait in the broker, and services run under gunicorn.
    *("MAIL_QUEUE", "SERVER"),
    # There a pod waits before it is told to stop.
    "DRAIN_SECONDS",
}
"""Settings of the other modes that the base leaves alone, and why."""


@pytest.fixture
def docker(tmp_path):
    """What flagonctl would give to containers."""
    for name in ("deploy", "gateway", "services"):
        (tmp_path / name).symlink_to(ROOT / name)
    stack = Stack("docker", 8080, tmp_path)
    keeper = vault.Vault(stack.secrets)
    keeper.fill()
    return stack, keeper


@pytest.fixture
def bare(monkeypatch):
    """No settings of other tests: a variable counts before a file."""
    for key in [*os.environ]:
        if key.startswith(tuple(f"{service.upper()}_" for service in SERVICES)):
            monkeypatch.delenv(key)
    return monkeypatch


class TestProcesses:
    @pytest.mark.parametrize("name", OVERLAYS)
    def test_are_those_of_the_other_modes(self, name):
        found = {
            one["metadata"]["name"]: (
                rules.service_of(one),
                tuple(pod(one)["spec"]["containers"][0]["args"]),
            )
            for one in overlay(name).of("Deployment")
            if rules.service_of(one)
        }

        assert found == {
            one.name: (one.service, one.arguments)
            for one in PROCESSES
            if one.kind == "python"
        }
        assert overlay(name).find("Deployment", "gateway")

    def test_have_the_ports_of_containers(self):
        manifests = overlay("local")
        for one in PROCESSES:
            if one.kind in {"python", "postgres", "redis"}:
                kind = "Deployment"
                if one.name in {"postgres", "redis-store"}:
                    kind = "StatefulSet"
                container = pod(manifests.find(kind, one.name))["spec"]["containers"][0]
                ports = [port["containerPort"] for port in container["ports"]]
                assert ports == [one.container_port], one.name

    def test_run_once_what_runs_once_in_containers(self):
        jobs = {one["metadata"]["name"] for one in overlay("production").of("Job")}

        assert jobs == {
            name
            for name, one in COMPOSE["services"].items()
            if one.get("restart") == "no"
        }

    def test_have_the_version_of_the_platform(self):
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "version"
        ]
        tags = {
            container["image"].rpartition(":")[2]
            for one in overlay("local").of("Deployment", "Job")
            for container in rules.containers(one)
            if container["image"].startswith("flagon-")
        }
        script = (K8S / "cluster.py").read_text()

        assert tags == {version}
        assert f'VERSION = "{version}"' in script

    def test_have_the_images_of_containers(self):
        for name in ("postgres", "redis-store", "redis-cache"):
            kind = "Deployment" if name == "redis-cache" else "StatefulSet"
            container = pod(overlay("local").find(kind, name))["spec"]["containers"][0]
            assert container["image"] == COMPOSE["services"][name]["image"]
        dockerfile = (K8S / "images" / "gateway.Dockerfile").read_text()
        assert f"ARG NGINX={COMPOSE['services']['gateway']['image']}\n" in dockerfile


def exporter(manifests, name):
    """The container of an exporter; that of nginx is beside the gateway's."""
    if name == "gateway-exporter":
        (found,) = sidecars(manifests.find("Deployment", "gateway"))
        return found
    return pod(manifests.find("Deployment", name))["spec"]["containers"][0]


class TestExporters:
    @pytest.fixture
    def manifests(self):
        return combined(("data", "exporters"))

    @pytest.mark.parametrize("name", ["postgres-exporter", "redis-exporter"])
    def test_are_started_as_in_containers(self, manifests, name):
        other, own = COMPOSE["services"][name], exporter(manifests, name)
        variables = {one["name"]: one["value"] for one in own.get("env", [])}
        # Their address comes with the secret, where the data store may be anywhere.
        variables.pop("DATA_SOURCE_URI_FILE", None)
        others = dict(other.get("environment", {}))
        others.pop("DATA_SOURCE_URI", None)

        assert own["image"] == other["image"]
        assert own.get("args", []) == other.get("command", [])
        assert variables == others
        assert own["resources"]["limits"]["memory"] == (
            other["mem_limit"].replace("m", "Mi")
        )

    def test_of_nginx_asks_the_nginx_of_its_own_pod(self, manifests):
        other = COMPOSE["services"]["gateway-exporter"]
        own = exporter(manifests, "gateway-exporter")
        internal = manifests.settings("gateway")["GATEWAY_INTERNAL_LISTEN"]

        assert own["image"] == other["image"]
        assert own["args"] == [
            one.replace("gateway:8081", f"127.0.0.1:{internal}")
            for one in other["command"]
        ]

    def test_have_the_ports_of_the_other_modes(self, manifests):
        for one in WATCHERS:
            if one.name in {"postgres-exporter", "redis-exporter", "gateway-exporter"}:
                (port,) = exporter(manifests, one.name)["ports"]
                assert port["containerPort"] == one.container_port, one.name

    def test_give_up_before_prometheus_does(self, manifests):
        """A Redis that is frozen is down, and not unknown."""
        (patience,) = re.findall(
            r"--connection-timeout=(\d+)s",
            " ".join(exporter(manifests, "redis-exporter")["args"]),
        )
        monitor = manifests.find("PodMonitor", "redis-exporter")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert int(patience) < int(endpoint["scrapeTimeout"].removesuffix("s"))


class TestSettings:
    @pytest.mark.parametrize("service", SERVICES)
    def test_have_the_names_of_the_other_modes(self, service, docker):
        stack, _keeper = docker
        process = next(one for one in PROCESSES if one.name == service)
        prefix = f"{service.upper()}_"
        compose = set(COMPOSE["services"][service]["environment"]) - {"TMPDIR"}
        other = compose | set(environment.plain(process, stack, stack.state))
        given = {
            name.removeprefix(prefix) for name in overlay("staging").settings(service)
        }
        # flagonctl gives it to each service; one that calls no other needs none.
        unused = set() if service in {"web", "worker"} else {"TOKEN_URL"}

        assert given == {name.removeprefix(prefix) for name in other} - (
            ELSEWHERE | unused
        )

    @pytest.mark.parametrize("name", OVERLAYS)
    @pytest.mark.parametrize("service", SERVICES)
    def test_start_the_service(self, name, service, docker, tmp_path, bare):
        """The real Settings class takes what each process of the service is given."""
        stack, keeper = docker
        manifests = overlay(name)
        values = environment.confidential(service, stack, keeper)
        if name == "production" and service == "catalog":
            values |= {"CATALOG_IMAGES_KEY_ID": "AKIA", "CATALOG_IMAGES_KEY": "secret"}
        secrets = mounted(tmp_path / "secrets", values)
        for one in manifests.of("Deployment"):
            if rules.service_of(one) != service:
                continue
            with bare.context() as patch:
                for key, value in rules.environment(manifests, one).items():
                    patch.setenv(key, value)
                found = rules.settings_of(service)(_secrets_dir=secrets)

            assert found.bind == "0.0.0.0:8000"
            text = found.secret_key.get_secret_value()
            assert text == values[f"{service.upper()}_SECRET_KEY"]

    def test_of_a_bucket_need_its_key(self, docker, tmp_path, bare):
        stack, keeper = docker
        manifests = combined(("bucket",))
        values = environment.confidential("catalog", stack, keeper)
        for key, value in manifests.settings("catalog").items():
            bare.setenv(key, value)

        with pytest.raises(ValueError, match="CATALOG_IMAGES_KEY_ID"):
            rules.settings_of("catalog")(_secrets_dir=mounted(tmp_path / "s", values))


def mounted(folder, values):
    """A folder of secrets with the links that Kubernetes makes."""
    (folder / "..2026_11_21").mkdir(parents=True)
    (folder / "..data").symlink_to("..2026_11_21")
    for name, value in values.items():
        (folder / "..2026_11_21" / name.lower()).write_text(value)
        (folder / name.lower()).symlink_to(f"..data/{name.lower()}")
    return folder


class TestGateway:
    @pytest.mark.parametrize("name", OVERLAYS)
    def test_has_every_variable(self, name, docker):
        stack, _keeper = docker

        assert set(overlay(name).settings("gateway")) == set(
            configuration.docker_gateway(stack)
        )

    def test_has_the_values_of_production_that_its_readme_names(self):
        readme = (ROOT / "gateway" / "README.md").read_text()
        rows = re.findall(
            r"^\| `(GATEWAY_\w+)` \| .* \| .* \| `?(\d[\w/]*|max-age=\d+)`? \|$",
            readme,
            re.MULTILINE,
        )
        base = overlay("production").settings("gateway")

        assert len(rows) > 10
        assert {name: base[name] for name, _value in rows} == dict(rows)

    @pytest.mark.parametrize("name", OVERLAYS)
    def test_is_rendered_as_flagonctl_does(self, name, tmp_path):
        manifests = overlay(name)
        source, target = tmp_path / "source", tmp_path / "target"
        source.mkdir()
        target.mkdir()
        for file, text in manifests.settings("gateway-source").items():
            (source / file).write_text(text)
        variables = manifests.settings("gateway")

        subprocess.run(
            ["sh", K8S / "base/gateway/render.sh", source, target],
            check=True,
            env=variables | {"PATH": os.environ["PATH"]},
        )

        configuration.gateway_files(tmp_path / "other", variables, ROOT)
        assert texts(target) == texts(tmp_path / "other")

    def test_does_not_start_when_a_variable_is_missing(self, tmp_path):
        (tmp_path / "source").mkdir()
        (tmp_path / "target").mkdir()
        (tmp_path / "source" / "a.template").write_text("listen ${GATEWAY_PORT};")

        done = subprocess.run(
            [
                *("sh", K8S / "base/gateway/render.sh"),
                *(tmp_path / "source", tmp_path / "target"),
            ],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )

        assert done.returncode == 1
        assert "a.template needs GATEWAY_PORT" in done.stderr

    def test_is_the_one_source(self):
        found = overlay("production").settings("gateway-source")

        assert found == {
            path.name: path.read_text()
            for path in (ROOT / "gateway").iterdir()
            if path.suffix in {".sh", ".conf", ".template"}
        }


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


class TestData:
    def test_runs_the_script_of_the_roles(self):
        """Like in containers: the image reads one that cannot be run into its shell."""
        postgres = pod(overlay("local").find("StatefulSet", "postgres"))["spec"]
        modes = {
            one["configMap"]["name"].rpartition("-")[0]: one["configMap"]["defaultMode"]
            for one in postgres["volumes"]
            if "configMap" in one
        }

        assert os.access(ROOT / "deploy" / "postgres" / "roles.sh", os.X_OK)
        assert modes == {"postgres": 0o555}

    def test_has_the_one_source(self):
        manifests = overlay("local")
        postgres, redis = ROOT / "deploy" / "postgres", ROOT / "deploy" / "redis"

        assert manifests.settings("postgres") == {
            name: (postgres / name).read_text()
            for name in ("postgresql.conf", "roles.sh")
        }
        assert manifests.settings("redis") == {
            name: (redis / name).read_text()
            for name in ("cache.conf", "store.conf", "replicated.sh", "sentinel.sh")
        }

    def test_of_several_pods_has_the_one_source_too(self):
        single = overlay("local")
        several = combined(("cloudnative-pg", "redis-sentinel"))

        for single_name, several_name in (
            ("postgres", "cluster-postgres"),
            ("redis", "replicated-redis"),
        ):
            assert several.settings(several_name) == single.settings(single_name)

    def test_has_the_parameters_of_the_other_modes(self):
        """Where the operator lets them be said at all."""
        operators = {
            # Always on with it, or its own to say.
            *("fsync", "archive_mode", "archive_command", "max_wal_senders"),
            *("log_destination", "logging_collector", "log_line_prefix"),
        }
        text = (ROOT / "deploy" / "postgres" / "postgresql.conf").read_text()
        said = dict(re.findall(r"^(\w+) = '?([^'\n]*)'?$", text, re.MULTILINE))
        cluster = combined(("cloudnative-pg",)).find("Cluster", "postgres")

        assert cluster["spec"]["postgresql"]["parameters"] == {
            name: value for name, value in said.items() if name not in operators
        }

    def test_gets_its_roles_from_the_script_with_every_password_it_reads(self):
        script = (ROOT / "deploy" / "postgres" / "roles.sh").read_text()
        manifests = combined(("cloudnative-pg",))
        job = pod(manifests.find("Job", "postgres-roles"))["spec"]
        (secrets,) = (one for one in job["volumes"] if one["name"] == "secrets")
        given = {one["path"] for one in secrets["secret"]["items"]}
        read = {
            found.replace("${name}", name)
            for found in re.findall(r"\$secrets/(\S+_postgres_password)'", script)
            for name in OWNERS
        } - {"auth_reader_postgres_password", "backup_postgres_password"}

        assert given == read
        assert job["containers"][0]["command"] == ["sh", "/etc/flagon/roles.sh"]


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """A Postgres that can be spoken to both ways, and the folder of its authority."""
    folder = tmp_path_factory.mktemp("authority")
    authority.ensure(folder)
    for server in start_postgres():
        with psycopg.connect(server.url, autocommit=True) as admin:
            (data,) = admin.execute("show data_directory").fetchone()
            owner = Path(data).stat().st_uid
            for name in ("server.pem", "server.key"):
                path = Path(data) / name
                path.write_text((folder / name).read_text())
                path.chmod(0o600)
                os.chown(path, owner, -1)
            for name, value in (
                ("ssl_cert_file", "server.pem"),
                ("ssl_key_file", "server.key"),
                ("ssl", "on"),
            ):
                admin.execute(f"alter system set {name} = '{value}'")
            admin.execute("select pg_reload_conf()")
        yield server.url.replace("postgresql:", "postgresql+psycopg:"), folder


class TestEncryption:
    """libpq's own variables, which a service passes on without knowing them."""

    @pytest.mark.parametrize("ours", [True, False], ids=["ours", "another"])
    def test_is_with_the_authority_that_pods_are_given(
        self, encrypted, ours, tmp_path, bare
    ):
        url, folder = encrypted
        authority.ensure(tmp_path)
        manifests = combined(("cloudnative-pg",))
        process = manifests.find("Deployment", "catalog-relay")
        given = rules.environment(manifests, process)
        bare.setenv("PGSSLMODE", given["PGSSLMODE"])
        bare.setenv("PGSSLROOTCERT", str((folder if ours else tmp_path) / "ca.pem"))
        pool = db.engine(url, pool_size=1, application_name="test")

        if ours:
            with pool.connect() as connection:
                query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
                assert connection.scalar(sqlalchemy.text(query)) is True
        else:
            with pytest.raises(OperationalError, match="certificate verify failed"):
                pool.connect()
        pool.dispose()


class TestEncryptionOfTheExporter:
    """The same variables, which its driver reads as libpq does."""

    @pytest.mark.parametrize("ours", [True, False], ids=["ours", "another"])
    def test_is_with_the_authority_that_pods_are_given(self, encrypted, ours, tmp_path):
        try:
            program = programs.find("prometheus-postgres-exporter")
        except Problem:
            lacking("an exporter", "JUDGES=1 make setup")
        url, folder = encrypted
        authority.ensure(tmp_path)
        manifests = combined(("exporters", "cloudnative-pg"))
        process = manifests.find("Deployment", "postgres-exporter")
        given = rules.environment(manifests, process)
        where = urlsplit(url)
        # As cluster.py writes it: how it is encrypted is said by the variables alone.
        (tmp_path / "uri").write_text(f"{where.hostname}:{where.port}/postgres")
        address = f"127.0.0.1:{free_port()}"
        running = subprocess.Popen(
            [program, f"--web.listen-address={address}"],
            stderr=subprocess.DEVNULL,
            env={
                "DATA_SOURCE_URI_FILE": str(tmp_path / "uri"),
                "DATA_SOURCE_USER": where.username,
                "PGSSLMODE": given["PGSSLMODE"],
                "PGSSLROOTCERT": str((folder if ours else tmp_path) / "ca.pem"),
            },
        )
        with httpx2.Client(transport=httpx2.HTTPTransport(retries=8)) as client:
            text = client.get(f"http://{address}/metrics").text
        running.terminate()
        running.wait(20)

        assert f"pg_up {int(ours)}" in text.splitlines()


def words(value):
    """Texts without their white space: kustomize folds long lines in its own way."""
    if isinstance(value, dict):
        return {key: words(each) for key, each in value.items()}
    if isinstance(value, list):
        return [words(each) for each in value]
    return value.split() if isinstance(value, str) else value


ABSENT_JOBS = {
    # The cluster's own prober asks at the way in.
    "probes",
}
"""What Prometheus asks elsewhere and no monitor of ours gives, and why."""


class TestMonitors:
    @pytest.fixture
    def watched(self):
        return combined(("exporters", "prometheus"))

    @pytest.fixture
    def given(self, watched):
        """Labels that the monitor of the platform's processes sets, by name."""
        monitor = watched.find("PodMonitor", "flagon")
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        return {one["targetLabel"]: one for one in endpoint["relabelings"]}

    def test_name_the_jobs_that_are_asked_for(self, watched, given):
        asked = set()
        for folder, kind in (
            ("services/web/src", "py"),
            ("deploy/observability/dashboards", "json"),
            ("deploy/observability/rules", "yml"),
            ("deploy/k8s/components", "yaml"),
        ):
            for path in sorted((ROOT / folder).rglob(f"*.{kind}")):
                for jobs in re.findall(r'\bjob=~?\\?"([\w|-]+)', path.read_text()):
                    asked |= set(jobs.split("|"))

        told = {
            one["replacement"]
            for monitor in watched.of("PodMonitor")
            for endpoint in monitor["spec"]["podMetricsEndpoints"]
            for one in endpoint["relabelings"]
            if one["targetLabel"] == "job"
        }
        assert asked - ABSENT_JOBS == told == {given["job"]["replacement"], "exporters"}
        assert asked >= ABSENT_JOBS

    @pytest.mark.parametrize(
        "process",
        [one for one in PROCESSES if one.kind == "python"],
        ids=lambda process: process.name,
    )
    def test_tell_of_a_process_what_the_other_modes_tell(self, watched, given, process):
        found = {
            f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9]', '_', name)}": value
            for name, value in labels(watched.find("Deployment", process.name)).items()
        }

        said = {
            name: found[given[name]["sourceLabels"][0]]
            for name in ("process", "service")
        }

        assert said == {"process": process.name, "service": process.service}


class TestRules:
    @pytest.mark.parametrize("name", ["red", "slo"])
    def test_of_prometheus_are_the_one_source(self, name):
        rule = overlay("production").find("PrometheusRule", f"flagon-{name}")
        path = ROOT / "deploy" / "observability" / "rules" / f"{name}.yml"

        assert words(rule["spec"]) == words(yaml.safe_load(path.read_text()))

    def test_of_prometheus_wake_people_about_symptoms(self):
        source = yaml.safe_load(
            (ROOT / "deploy" / "observability" / "rules" / "alerts.yml").read_text()
        )
        known = {
            rule["alert"]: rule for group in source["groups"] for rule in group["rules"]
        }
        installed = {
            rule["alert"]: (one["metadata"]["name"], rule)
            for one in overlay("production").of("PrometheusRule")
            if one["metadata"]["name"] in {"flagon-alerts", "flagon-stores"}
            for group in one["spec"]["groups"]
            for rule in group["rules"]
        }

        assert set(installed) == set(known) - set(cluster.ELSEWHERE)
        assert words({name: rule for name, (_of, rule) in installed.items()}) == words(
            {name: known[name] for name in installed}
        )
        # What asks an exporter comes with it, and nothing else does.
        for name, (of, rule) in installed.items():
            exported = re.search(r"\b(pg|redis)_|exporters", rule["expr"])
            operated = "cnpg_" in rule["expr"]
            assert (of == "flagon-stores") is (bool(exported) and not operated), name

    def test_of_prometheus_count_the_copies_that_postgres_should_have(self):
        manifests = combined(("cloudnative-pg", "prometheus"))
        (copies,) = re.findall(
            r"cnpg_pg_replication_streaming_replicas\) < (\d+)",
            json.dumps(manifests.find("PrometheusRule", "flagon-alerts")),
        )

        assert int(copies) == (
            manifests.find("Cluster", "postgres")["spec"]["instances"] - 1
        )

    def test_of_prometheus_name_postgres_as_its_alerts_do(self):
        monitor = combined(("prometheus",)).find("PodMonitor", "postgres")
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        given = {one["targetLabel"]: one for one in endpoint["relabelings"]}

        assert given["process"]["replacement"] == "postgres"
        assert given["instance"]["sourceLabels"] == ["__meta_kubernetes_pod_name"]

    def test_of_prometheus_leave_out_what_the_readme_names(self):
        text = (K8S / "README.md").read_text()

        assert [name for name in cluster.ELSEWHERE if f"`{name}`" not in text] == []

    def test_of_prometheus_ask_for_labels_that_targets_have(self):
        monitor = combined(("prometheus",)).find("PodMonitor", "flagon")
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        given = {one["targetLabel"] for one in endpoint["relabelings"]}
        installed = overlay("production").of("PrometheusRule")
        asked = re.findall(r"\bup\{([^}]*)\}", json.dumps(installed))
        labels_asked = {name for one in asked for name in re.findall(r"(\w+)!?=", one)}

        assert labels_asked == {"job", "process"}
        assert labels_asked <= given

    def test_scale_by_metrics_that_exist(self):
        code = "".join(
            path.read_text()
            for path in (ROOT / "libs/chassis/src/flagon_chassis").glob("*.py")
        )
        asked = json.dumps(overlay("production").of("ScaledObject"))
        names = set(re.findall(r"flagon_\w+", asked))

        assert names == {"flagon_queue_depth", "flagon_queue_oldest_seconds"}
        assert all(f'"{name}"' in code for name in names)

    def test_scale_by_the_queues_that_the_process_serves(self):
        for one in overlay("production").of("ScaledObject"):
            name = one["spec"]["scaleTargetRef"]["name"]
            process = next(each for each in PROCESSES if each.name == name)
            served = set(process.arguments[-1].split(","))
            for trigger in one["spec"]["triggers"]:
                found = re.search(r'queue=~"([a-z|]+)"', trigger["metadata"]["query"])
                assert set(found[1].split("|")) == served


class TestSecrets:
    def test_are_all_in_the_store_of_the_cluster(self):
        manifests = overlay("production")
        asked = {one["metadata"]["name"] for one in manifests.of("ExternalSecret")}
        used = set().union(
            *(rules.used_secrets(one) for one in manifests.of(*rules.WORKLOADS))
        )

        assert used - asked == {"gateway-tls"}
        assert asked <= used

    def test_of_owners_are_apart(self):
        assert set(OWNERS) == {
            name.removesuffix("-owner")
            for name in rules.SECRETS
            if name.endswith("-owner")
        }
