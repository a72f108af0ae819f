"""cluster.py touches only a cluster that it may touch, and in the right order."""

import json
import os
import re
import socket
import subprocess
import sys
from hashlib import sha256

import pytest
import yaml

from flagon_chassis import stores

from . import rules
from .manifests import K8S, KUBECTL, ROOT, combined, overlay
from .rules import MONITORED, REPLICATED, SECRETS, confidential, used_secrets

sys.path.insert(0, str(K8S))

import cluster

FAKE = f"""#!{sys.executable} -IS
import json, os, sys
words = sys.argv[1:]
given = "" if "port-forward" in words or sys.stdin.isatty() else sys.stdin.read()
with open(os.environ["CALLS"], "a") as file:
    print(json.dumps([words, given]), file=file)
if words[0] == "kustomize":
    os.execv({str(KUBECTL)!r}, ["kubectl", *words])
if words[:2] == ["config", "view"]:
    print(os.environ["CONFIG"])
items = None
if words[4:5] == ["get"]:
    if "pods" in words:
        ends = dict(name="catalog-5d9c6-q7z8m", deletionTimestamp="2026-11-23T06:00:00Z")
        items = [dict(metadata=ends), dict(metadata=dict(name="catalog-5d9c6-2xkqv"))]
    elif "deployment/catalog" in words:
        print(json.dumps(dict(spec=dict(replicas=2))))
    elif "services" in words:
        items = [
            dict(metadata=dict(name=name), spec=dict(ports=[dict(port=port)]))
            for name, port in json.loads(os.environ["SERVICES"])
        ]
    elif "deployments" in words:
        items = [dict(metadata=dict(name=name)) for name in json.loads(os.environ["NETWORK"])]
    elif "networkpolicies" in words:
        items = ["default-deny"] if "NETWORK" in os.environ else []
    if items is not None:
        print(json.dumps(dict(items=items)))
if "exec" in words:
    name = words[words.index("exec") + 1].removeprefix("deployment/")
    print(json.dumps(json.loads(os.environ["NETWORK"])[name]))
if os.environ.get("FAILS") and os.environ["FAILS"] in words:
    print("it failed", file=sys.stderr)
    sys.exit(1)
if "port-forward" in words:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self):
            bad = os.environ.get("BAD") == self.path.partition("?")[0]
            # This page always answers; what it says counts.
            status = self.path == "/status"
            self.send_response(503 if bad and not status else 200)
            self.end_headers()
            word = "degraded" if bad else "ready"
            self.wfile.write(json.dumps(dict(status=word)).encode())
        def log_message(self, *_):
            pass
    server = HTTPServer(("127.0.0.1", 0), Gateway)
    print(f"Forwarding from 127.0.0.1:{{server.server_port}} -> 8080", flush=True)
    server.serve_forever()
"""

KIND = ("kind-flagon", "https://127.0.0.1:40123")
PRODUCTION = ("production", "https://k8s.example.com")
TUNNEL = ("production", "https://127.0.0.1:6443")
PRETENDER = ("kind-production", "https://k8s.example.com")


def config(*contexts, current=""):
    return json.dumps(
        {
            "current-context": current,
            "contexts": [
                {"name": name, "context": {"cluster": f"c-{name}"}}
                for name, _server in contexts
            ]
            or None,
            "clusters": [
                {"name": f"c-{name}", "cluster": {"server": server}}
                for name, server in contexts
            ]
            or None,
        }
    )


class Machine:
    """A machine with these contexts and a kubectl that only writes down its calls."""

    def __init__(self, folder):
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        self.program = folder / "kubectl"
        self.program.write_text(FAKE)
        self.program.chmod(0o755)
        self.folder = folder

    def run(self, *arguments, **environment):
        # No docker in the path: nothing is built.
        done = subprocess.run(
            [
                *(sys.executable, K8S / "cluster.py", *arguments),
                *("--state", self.folder / "state"),
            ],
            check=False,
            capture_output=True,
            text=True,
            env={
                "PATH": str(self.folder),
                "HOME": str(self.folder),
                "KUBECTL": str(self.program),
                "CALLS": str(self.calls_file),
                **environment,
            },
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    @property
    def calls(self):
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]

    @property
    def touched(self):
        """What was asked of a cluster."""
        return [
            (words, given)
            for words, given in self.calls
            if words[0] not in {"config", "kustomize"}
        ]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


class TestContext:
    @pytest.mark.parametrize(
        ("command", "contexts"),
        [
            ("up", ()),
            ("up", (PRODUCTION,)),
            ("test", (PRODUCTION,)),
            ("down", (TUNNEL,)),
            ("down", (PRETENDER,)),
        ],
        ids=str,
    )
    def test_that_is_not_of_this_machine_is_left_alone(
        self, machine, command, contexts
    ):
        current = contexts[0][0] if contexts else ""
        done = machine.run(command, CONFIG=config(*contexts, current=current))

        assert done.returncode == 0
        assert done.stdout.startswith("skipped: ")
        assert machine.touched == []

    def test_that_is_named_is_used(self, machine):
        contexts = config(KIND, PRODUCTION, current="kind-flagon")
        done = machine.run("down", "--context", "production", CONFIG=contexts)

        assert done.returncode == 0
        assert {tuple(words[:2]) for words, _given in machine.touched} == {
            ("--context", "production")
        }

    def test_that_does_not_exist_is_said(self, machine):
        done = machine.run("up", "--context", "other", CONFIG=config(KIND))

        assert "skipped: There is no context other." in done.stdout
        assert machine.touched == []

    @pytest.mark.parametrize(
        ("name", "server", "local"),
        [
            (*KIND, True),
            (*PRODUCTION, False),
            (*TUNNEL, False),
            (*PRETENDER, False),
            ("minikube", "https://192.168.49.2:8443", True),
            ("docker-desktop", "https://kubernetes.docker.internal:6443", True),
            ("minikube", "https://8.8.8.8:8443", False),
            ("minikube", "", False),
            ("not-kind-flagon", "https://127.0.0.1:1", False),
        ],
    )
    def test_is_local_by_name_and_address(self, name, server, local):
        assert cluster.is_local(name, server) is local


def asked(manifests):
    """The Sentinels that the nodes ask."""
    nodes = manifests.find("StatefulSet", "redis-nodes")
    return rules.environment(manifests, nodes)["SENTINELS"].split()


@pytest.fixture(scope="module")
def touched(tmp_path_factory):
    """What `up` asks of a local cluster."""
    machine = Machine(tmp_path_factory.mktemp("up"))
    done = machine.run("up", CONFIG=config(KIND, current="kind-flagon"))
    assert done.returncode == 0, done.stderr
    return machine.touched


class TestUp:
    def test_names_its_context_each_time(self, touched):
        assert all(words[:2] == ["--context", "kind-flagon"] for words, _ in touched)

    def test_migrates_before_any_process_starts(self, touched):
        applied, ended = [], {}
        for number, (words, given) in enumerate(touched):
            if "apply" in words:
                applied += [
                    (number, one["kind"], one["metadata"]["name"])
                    for one in json.loads(given)["items"]
                ]
            if "wait" in words:
                ended[words[6].removeprefix("job/")] = number
        first = min(
            number
            for number, kind, name in applied
            if kind == "Deployment" and name != "redis-cache"
        )
        jobs = {name for _number, kind, name in applied if kind == "Job"}

        assert jobs == set(ended)
        assert len(jobs) == 4
        assert max(ended.values()) < first
        # Clients are rows: the tables come first.
        seeded = next(
            number
            for number, _kind, name in applied
            if name == "auth-seed" and _kind == "Job"
        )
        assert ended["auth-migrate"] < seeded
        assert applied[0][1:] == ("Namespace", "flagon")

    def test_applies_everything_once(self, touched):
        applied = [
            (one["kind"], one["metadata"]["name"])
            for words, given in touched
            if "apply" in words
            for one in json.loads(given)["items"]
        ]
        built = [
            (one["kind"], one["metadata"]["name"]) for one in overlay("local").objects
        ]
        made = [each for each in applied if each[0] == "Secret"]

        assert sorted(applied) == sorted(built + made)

    def test_makes_each_secret_that_is_used(self, touched):
        made = {
            one["metadata"]["name"]: set(one["stringData"])
            for words, given in touched
            if "apply" in words
            for one in json.loads(given)["items"]
            if one["kind"] == "Secret"
        }
        manifests = overlay("local")
        used = set().union(
            *(
                used_secrets(one)
                for one in manifests.of("Deployment", "StatefulSet", "Job")
            )
        )

        assert set(made) == used == SECRETS - REPLICATED - MONITORED
        assert made["gateway-tls"] == {"tls.crt", "tls.key"}
        assert made["redis-acl"] == {"store.acl", "cache.acl"}
        known = {name.lower() for name in confidential()}
        for name in ("auth", "catalog", "realtime", "web", "worker"):
            assert made[name] <= known
            assert f"{name}_secret_key" in made[name]

    def test_makes_roles_when_postgres_is_there_and_before_tables(self, monkeypatch):
        objects = list(combined(("data", "cloudnative-pg")).objects)
        asked = []
        monkeypatch.setattr(
            cluster, "kubectl", lambda *words, **_more: asked.append(words) or ""
        )

        cluster.Rollout("kind-flagon").up(objects, [])

        waited = [words[-2] for words in asked if words[4] == "wait"]
        assert waited[0] == "cluster.postgresql.cnpg.io/postgres"
        assert waited[1] == "job/postgres-roles"
        assert set(waited[2:5]) == {
            *("job/auth-migrate", "job/catalog-migrate", "job/worker-migrate")
        }
        # A job cannot be changed: the one of the last rollout goes first.
        deleted = [words[-3] for words in asked if words[4] == "delete"]
        assert deleted[0] == "postgres-roles"

    def test_makes_those_of_data_stores_of_several_pods(self, tmp_path):
        stack = cluster.Cluster("docker", 8080, ROOT, tmp_path)
        objects = combined(("data", "cloudnative-pg", "redis-sentinel")).objects
        made = {
            one["metadata"]["name"]: one["stringData"]
            for one in cluster.secrets(stack, list(objects))
        }

        assert set(made["redis-acl"]) == {
            *("store.acl", "cache.acl", "replicated.acl", "sentinel.acl")
        }
        passwords = made["redis-sentinel"]
        assert set(passwords) == {
            *("redis_replica_password", "redis_sentinel_password")
        }
        for password in passwords.values():
            assert (
                sha256(password.encode()).hexdigest()
                in (made["redis-acl"]["replicated.acl"])
            )
        assert "@postgres-rw:5432/" in made["catalog"]["catalog_database_url"]
        owner = made["catalog-owner"]["catalog_owner_database_url"]
        assert "@postgres-rw:5432/" in owner
        for name in ("store_url", "broker_url"):
            url = made["worker"][f"worker_{'redis_' * (name == 'store_url')}{name}"]
            found = stores.watched(url)
            assert found.name == "store"
            addresses = asked(combined(("redis-sentinel",)))
            assert [f"{host}:{port}" for host, port in found.sentinels] == addresses
        assert "@redis-cache:" in made["worker"]["worker_redis_cache_url"]

    @pytest.mark.parametrize(
        ("components", "uri", "store"),
        [
            ((), "postgres:5432/postgres?sslmode=disable", ["redis-store"]),
            (
                ("cloudnative-pg", "redis-sentinel"),
                # Encrypted as its variables say.
                "postgres-rw:5432/postgres",
                [f"redis-nodes-{number}.redis-nodes" for number in range(3)],
            ),
        ],
        ids=["single", "several"],
    )
    def test_makes_those_of_exporters(self, tmp_path, components, uri, store):
        stack = cluster.Cluster("docker", 8080, ROOT, tmp_path)
        objects = combined(("data", "exporters", *components)).objects
        made = {
            one["metadata"]["name"]: one["stringData"]
            for one in cluster.secrets(stack, list(objects))
        }
        signed_in = json.loads(made["redis-monitor"]["redis_monitor_passwords.json"])
        (password,) = set(signed_in.values())

        assert made["postgres-monitor"] == {
            "monitor_postgres_uri": uri,
            "monitor_postgres_password": made["postgres"]["monitor_postgres_password"],
        }
        assert set(signed_in) == {
            f"redis://{user}{host}:6379"
            for host in (*store, "redis-cache")
            for user in ("", "monitor@")
        }
        for name in ("store.acl", "cache.acl"):
            hashed = sha256(password.encode()).hexdigest()
            assert f"user monitor on #{hashed} " in made["redis-acl"][name]

    def test_tells_no_secret_in_its_arguments(self, touched):
        values = {
            value
            for words, given in touched
            if "apply" in words
            for one in json.loads(given)["items"]
            if one["kind"] == "Secret"
            for value in one["stringData"].values()
        }

        assert not any(
            value in " ".join(words) for value in values for words, _ in touched
        )
        # By the server: else kubectl writes what it applied into an annotation.
        assert all("--server-side" in words for words, _ in touched if "apply" in words)

    def test_stops_when_tables_could_not_be_changed(self, machine):
        done = machine.run(
            "up", CONFIG=config(KIND, current="kind-flagon"), FAILS="job/auth-migrate"
        )
        applied = [
            one["kind"] + one["metadata"]["name"]
            for words, given in machine.touched
            if "apply" in words
            for one in json.loads(given)["items"]
        ]

        assert done.returncode == 1
        assert "it failed" in done.stderr
        assert "Deploymentauth" not in applied

    def test_gives_other_overlays_no_secrets_of_its_own(self, machine):
        done = machine.run(
            *("up", "--overlay", "production", "--context", "production"),
            CONFIG=config(PRODUCTION),
        )

        assert done.returncode == 0, done.stderr
        assert not any('"Secret"' in given for _words, given in machine.touched)


class TestTest:
    def test_passes_when_everything_answers(self, machine):
        done = machine.run("test", CONFIG=config(KIND, current="kind-flagon"))

        assert done.returncode == 0, done.stderr
        assert "everything is ready" in done.stdout
        assert ", 0 failed" in done.stdout

    @pytest.mark.parametrize("bad", ["/healthz", "/status", "/api/v1/products"])
    def test_fails_when_something_does_not(self, machine, bad):
        # The fake kubectl starts an interpreter for each call: a request comes in between.
        done = machine.run("test", CONFIG=config(KIND, current="kind-flagon"), BAD=bad)

        assert done.returncode == 1

    def test_scales_and_drains_while_requests_are_sent(self, machine):
        done = machine.run("test", CONFIG=config(KIND, current="kind-flagon"))
        changes = [
            words[4:]
            for words, _given in machine.touched
            if words[4] in {"scale", "delete"} or words[4:6] == ["rollout", "restart"]
        ]

        assert changes == [
            ["rollout", "restart", "deployment/catalog"],
            ["scale", "deployment/catalog", "--replicas=3"],
            ["scale", "deployment/catalog", "--replicas=2"],
            ["delete", "pod", "catalog-5d9c6-2xkqv", "--wait"],
        ]
        assert done.stdout.count(", 0 failed") == 3
        assert "skipped: there are no network policies" in done.stdout

    def test_speaks_a_language_that_kubectl_knows(self, machine, network):
        """The real one takes each command, and only then looks for the cluster."""
        machine.run("test", CONFIG=config(KIND, current="kind-flagon"), **network)
        nowhere = machine.folder / "config"
        nowhere.write_text(
            yaml.safe_dump(
                {
                    "clusters": [
                        {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
                    ],
                    "contexts": [{"name": KIND[0], "context": {"cluster": "c"}}],
                }
            )
        )
        commands = {tuple(words[4:6]): words for words, _given in machine.touched}

        assert {name for name, _what in commands} == {
            *("port-forward", "rollout", "scale", "get", "delete", "exec")
        }
        for words in commands.values():
            done = subprocess.run(
                [KUBECTL, "--kubeconfig", nowhere, *words],
                check=False,
                capture_output=True,
                text=True,
            )
            assert "127.0.0.1:1 was refused" in done.stderr, (words, done.stderr)


EDGES = sorted(edge for edge, _why in cluster.edges(cluster.TABLE.read_text()))


@pytest.fixture
def network():
    """What a cluster answers in which each connection is as in the table."""
    local = overlay("local")
    services = [
        (one["metadata"]["name"], port["port"])
        for one in local.of("Service")
        for port in one["spec"]["ports"]
    ]
    reached = {
        one["metadata"]["name"]: [
            f"{callee}:{port}"
            for caller, callee, port in EDGES
            if caller == one["metadata"]["name"] and (callee, port) in services
        ]
        for one in local.of("Deployment")
        if rules.service_of(one)
    }
    return {"SERVICES": json.dumps(services), "NETWORK": json.dumps(reached)}


class TestPolicies:
    def test_that_are_kept_are_found_to_be(self, machine, network):
        done = machine.run(
            "test", CONFIG=config(KIND, current="kind-flagon"), **network
        )

        assert done.returncode == 0, done.stderr
        assert re.search(r"policies: 1\d\d connections tried", done.stdout)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda reached: reached.append("postgres:5432"), "web reaches postgres"),
            (lambda reached: reached.remove("auth:8000"), "web does not reach auth"),
        ],
        ids=["open", "closed"],
    )
    def test_that_are_not_kept_are_told(self, machine, network, change, said):
        reached = json.loads(network["NETWORK"])
        change(reached["web"])
        network["NETWORK"] = json.dumps(reached)

        done = machine.run(
            "test", CONFIG=config(KIND, current="kind-flagon"), **network
        )

        assert done.returncode == 1
        assert said in done.stderr

    def test_are_tried_by_real_connections(self):
        with socket.create_server(("127.0.0.1", 0)) as open_, socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in (open_, closed)]
            done = subprocess.run(
                [sys.executable, "-IS", "-c", cluster.ATTEMPTS, *addresses],
                check=True,
                capture_output=True,
                text=True,
            )

        assert json.loads(done.stdout) == addresses[:1]


class TestMakefile:
    @pytest.mark.parametrize("target", ["k8s-up", "k8s-down", "k8s-test", "k8s-check"])
    def test_has_the_target(self, target):
        done = subprocess.run(
            ["make", "--dry-run", target, "CONTEXT=a b"],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
        )

        assert ("deploy/k8s/cluster.py" in done.stdout) == (target != "k8s-check")
