"""What a cluster's Prometheus is told to scrape has what its rules and dashboards ask for.

The exporters are started with the words, variables and logins of the manifests of
`overlays/production`, beside a real Postgres, two Redis and an nginx; only addresses differ.
"""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
import redis
import yaml
from flagonctl import programs, templates, vault, watching
from flagonctl.problem import Problem
from flagonobs import dashboards

from flagon_chassis.testing import free_port, lacking, start_postgres, start_redis

from .conftest import ROOT, metrics_in
from .test_live import OF_COPIES
from .test_replication import Asker, exporter, looking, running
from .test_routing import STACK, eventually

sys.path.insert(0, str(ROOT / "deploy" / "k8s"))

import cluster

POD = "gateway-5d9c6-2xkqv"
DEBIAN = {
    "postgres-exporter": "prometheus-postgres-exporter",
    "redis-exporter": "prometheus-redis-exporter",
    "gateway-exporter": "prometheus-nginx-exporter",
}


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Exporters, which local mode needs only when asked for them."""
    try:
        for name in DEBIAN.values():
            programs.find(name)
    except Problem:
        lacking("an exporter", "JUDGES=1 make setup")


@pytest.fixture(scope="module")
def objects():
    """The manifests of a cluster with exporters, by kind and name."""
    return {
        (one["kind"], one["metadata"]["name"]): one
        for one in cluster.build("production")
    }


def started(entered, server):
    """Keep a server of the test until the end, and give its Server."""
    entered.enter_context(closing(server))
    return next(server)


def monitored_postgres(entered, keeper):
    """Run a Postgres with the roles of the platform and give its address."""
    url = started(entered, start_postgres()).url
    where = urlsplit(url)
    subprocess.run(
        ["/bin/sh", ROOT / "deploy" / "postgres" / "roles.sh"],
        check=True,
        env={
            "PATH": os.environ["PATH"],
            "PGHOST": where.hostname,
            "PGPORT": str(where.port),
            "PGUSER": where.username,
            "SECRETS_DIR": str(keeper.folder),
        },
    )
    with psycopg.connect(url, autocommit=True) as admin:
        # This server believes everybody else.
        (name,) = admin.execute("show hba_file").fetchone()
        rules = Path(name).read_text()
        Path(name).write_text(f"host all monitor all scram-sha-256\n{rules}")
        admin.execute("select pg_reload_conf()")
    return where.netloc.rpartition("@")[2]


def monitored_redis(entered, keeper, kind):
    """Run a Redis with the platform's user for its exporter.

    :return: its Server, and a client from before others were kept out.
    """
    server = started(entered, start_redis("--appendonly", "yes"))
    text = templates.fill_file(
        ROOT / "deploy" / "redis" / f"{kind}.acl.template",
        vault.redis_variables(STACK, keeper),
    )
    rights = {line.split()[1]: line.split()[2:] for line in text.splitlines()}
    admin = redis.Redis.from_url(server.url, single_connection_client=True)
    entered.enter_context(admin)
    admin.execute_command("ACL", "SETUSER", "monitor", *rights["monitor"])
    admin.execute_command("ACL", "SETUSER", "default", "off")
    return server, admin


def monitored_nginx(entered, folder):
    """Run an nginx that counts, and give its address."""
    address = f"127.0.0.1:{free_port()}"
    config = folder / "nginx.conf"
    config.write_text(
        "daemon off; events {} http { access_log off; server {"
        f" listen {address}; location = /stub_status {{ stub_status; }} }} }}"
    )
    words = ("-c", config, "-e", "stderr", "-g", f"pid {folder / 'nginx.pid'};")
    entered.enter_context(running(programs.find("nginx"), *words))
    with httpx2.Client(transport=httpx2.HTTPTransport(retries=8)) as client:
        assert client.get(f"http://{address}/stub_status").status_code == 200
    return address


def container(objects, name):
    """The container of an exporter, which for nginx is beside the gateway's."""
    workload = "gateway" if name == "gateway-exporter" else name
    spec = objects["Deployment", workload]["spec"]["template"]["spec"]
    (found,) = (
        one
        for one in (*spec["containers"], *spec.get("initContainers", []))
        if [port["name"] for port in one.get("ports", [])] == ["metrics"]
    )
    return found


def scrape_configs(objects, addresses, here):
    """What the operator makes of the monitors, for pods that are these addresses.

    :param here: by the address of a Redis in the manifests, where it is in this test.
    """
    for name, address in addresses.items():
        endpoints = objects["PodMonitor", name]["spec"]["podMetricsEndpoints"]
        for number, endpoint in enumerate(endpoints):
            asked = endpoint.get("params", {}).get("target", [])
            yield {
                "job_name": f"podMonitor/flagon/{name}/{number}",
                "metrics_path": endpoint["path"],
                "params": {"target": [here[one] for one in asked]} if asked else {},
                "scrape_interval": endpoint["scrapeTimeout"],
                "scrape_timeout": endpoint["scrapeTimeout"],
                "static_configs": [
                    {
                        "targets": [address],
                        "labels": {
                            "__meta_kubernetes_pod_name": POD,
                            "namespace": "flagon",
                            "pod": POD,
                            "endpoint": endpoint["port"],
                        },
                    }
                ],
                "relabel_configs": [
                    {re.sub("L", "_l", key): value for key, value in relabeling.items()}
                    for relabeling in endpoint["relabelings"]
                ],
            }


@pytest.fixture(scope="module")
def watched(objects, tmp_path_factory):
    """A Prometheus as the manifests configure it, and the Redis that is the store."""
    folder = tmp_path_factory.mktemp("cluster")
    keeper = vault.Vault(folder / "secrets")
    keeper.fill()
    with ExitStack() as entered:
        postgres = monitored_postgres(entered, keeper)
        servers = [monitored_redis(entered, keeper, one) for one in ("store", "cache")]
        nginx = monitored_nginx(entered, folder)
        urls = [server.url.removesuffix("/0") for server, _admin in servers]
        endpoints = objects["PodMonitor", "redis-exporter"]["spec"]
        here = {
            endpoint["params"]["target"][0]: url
            for endpoint, url in zip(
                endpoints["podMetricsEndpoints"], urls, strict=True
            )
        }
        keeper.put("monitor_postgres_uri", f"{postgres}/postgres?sslmode=disable")
        keeper.put(
            "redis_monitor_passwords.json",
            watching.redis_passwords(keeper, (urlsplit(one).netloc for one in urls)),
        )

        def moved(text):
            text = text.replace("/run/secrets", str(keeper.folder))
            return text.replace("127.0.0.1:8081", nginx)

        addresses = {
            name: entered.enter_context(
                exporter(
                    program,
                    *map(moved, container(objects, name).get("args", [])),
                    env={
                        one["name"]: moved(one["value"])
                        for one in container(objects, name).get("env", [])
                    },
                )
            )
            for name, program in DEBIAN.items()
        }
        rules = objects["PrometheusRule", "flagon-stores"]["spec"]
        (folder / "rules.yml").write_text(yaml.safe_dump(rules))
        config = {
            "global": {"evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [*scrape_configs(objects, addresses, here)],
        }
        asker = Asker(entered.enter_context(looking(folder, config)), {})

        def seen_at_work():
            for _server, admin in servers:
                admin.get("what-is-not-there")
            return asker.ask("count(rate(redis_keyspace_misses_total[1m]) > 0) == 2")

        # A rate needs several looks.
        eventually(seen_at_work, 60)
        yield asker, servers[0][0]


def stores(objects):
    """The alerts that come with exporters, by name."""
    return {
        rule["alert"]: rule
        for group in objects["PrometheusRule", "flagon-stores"]["spec"]["groups"]
        for rule in group["rules"]
    }


class TestTargets:
    def test_answer_and_have_the_names_of_the_other_modes(self, watched):
        asker, _store = watched
        targets = json.loads(watching.targets(STACK, watched=True)["exporters.json"])
        others = {one["labels"]["process"]: one["labels"]["service"] for one in targets}
        # Machines and Alertmanager are the cluster's own.
        del others["machine"], others["alertmanager"]

        found = {
            one["metric"]["process"]: one["metric"] for one in asker.ask("up == 1")
        }

        assert {name: one["service"] for name, one in found.items()} == others
        for name, one in found.items():
            assert one["job"] == "exporters"
            assert one["instance"] == (POD if name == "gateway" else name)

    @pytest.mark.parametrize("metric", ["pg_up", "redis_up", "nginx_up"])
    def test_are_let_in_with_their_own_logins(self, watched, metric):
        asker, _store = watched

        assert asker.ask(f"{metric} == 1")
        assert not asker.ask(f"{metric} == 0")


class TestAlerts:
    def test_ask_for_what_is_scraped(self, watched, objects):
        asker, _store = watched
        for name, rule in stores(objects).items():
            for metric in metrics_in(rule["expr"]) - OF_COPIES:
                found = asker.ask(f'{metric}{{job="exporters"}}')
                assert found, (name, metric)
                for label in re.findall(r"by \(([^)]*)\)", rule["expr"]):
                    for each in label.split(", "):
                        assert all(each in one["metric"] for one in found), (name, each)

    def test_tell_of_a_redis_that_ends(self, watched, objects):
        asker, store = watched
        alerts = stores(objects)
        assert not [name for name, rule in alerts.items() if asker.ask(rule["expr"])]

        store.process.send_signal(signal.SIGSTOP)

        down = alerts["RedisDown"]["expr"]
        found = eventually(lambda: asker.ask(down))
        assert [one["metric"] for one in found] == [{"process": "redis-store"}]
        store.process.send_signal(signal.SIGCONT)
        eventually(lambda: not asker.ask(down))


class TestDashboards:
    @pytest.mark.parametrize(
        "board",
        [
            one
            for one in dashboards.boards()
            if one.name in {"postgres", "redis", "gateway"}
        ],
        ids=lambda one: one.name,
    )
    def test_find_what_exporters_say(self, watched, board):
        asker, _store = watched
        asked = [
            query.expr
            for panels in board.rows.values()
            for panel in panels
            for query in panel.queries
            if re.search(r"\b(pg|redis|nginx)_", query.expr)
        ]

        assert len(asked) > 3
        # A rate needs two looks at each of them, and each is looked at by its own clock.
        eventually(lambda: all(asker.ask(expr) for expr in asked), 60)
