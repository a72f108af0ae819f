"""What is asked about copies, asked of real servers, exporters and a real Prometheus."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import psycopg
import pytest
import yaml
from flagonctl import programs, watching
from flagonctl.problem import Problem
from flagonctl.processes import WATCHERS

from flagon_chassis.testing import (
    free_port,
    lacking,
    start_postgres,
    start_redis,
)

from .conftest import HOME
from .test_routing import STACK, eventually


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Exporters, which local mode needs only when asked for them."""
    try:
        for name in ("prometheus-redis-exporter", "prometheus-postgres-exporter"):
            programs.find(name)
    except Problem:
        lacking("an exporter", "JUDGES=1 make setup")


@contextmanager
def running(*command, **options):
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        yield process
    finally:
        # Who was stopped would not hear it.
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextmanager
def exporter(name, *arguments, env=None):
    """Run one and give its address."""
    address = f"127.0.0.1:{free_port()}"
    with running(
        programs.find(name), *arguments, f"--web.listen-address={address}", env=env
    ):
        yield address


class Asker:
    """A Prometheus that looks often."""

    def __init__(self, url, alerts):
        self.url = url
        self.alerts = alerts

    def ask(self, expression):
        try:
            answer = httpx2.get(
                f"{self.url}/api/v1/query", params={"query": expression}
            )
        except httpx2.TransportError:
            return None
        # It says 503 while it starts.
        if answer.status_code == 503:
            return None
        return answer.raise_for_status().json()["data"]["result"]

    def pending(self):
        """Return the names of the alerts whose expression is true."""
        return {
            name
            for name, rule in self.alerts.items()
            if "Replica" in name and self.ask(rule["expr"])
        }


@contextmanager
def prometheus(folder, alerts, targets):
    """Scrape targets, each its address and its labels."""
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"},
        "scrape_configs": [
            {
                "job_name": "exporters",
                "static_configs": [
                    {"targets": [address], "labels": labels}
                    for address, labels in targets
                ],
            }
        ],
    }
    with looking(folder, config) as url:
        yield Asker(url, alerts)


@contextmanager
def looking(folder, config):
    """Run a Prometheus with this configuration and give its URL."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with running(
        programs.find("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ):
        yield f"http://{address}"


@pytest.fixture
def redis_nodes(tmp_path, alerts):
    """A primary and its copy, as a Prometheus sees them."""
    # Who does not answer is let go of after 12 s instead of 60.
    primary = start_redis("--repl-timeout", "12", "--repl-ping-replica-period", "1")
    here = next(primary).url
    host, port = here.removeprefix("redis://").removesuffix("/0").split(":")
    copy = start_redis("--replicaof", host, port)
    second = next(copy)
    with exporter("prometheus-redis-exporter", "--redis.addr=") as address:
        targets = [
            (
                address,
                {
                    "process": "redis-nodes",
                    "instance": f"redis-nodes-{number}",
                    "__metrics_path__": "/scrape",
                    "__param_target": url.removesuffix("/0"),
                },
            )
            for number, url in enumerate((here, second.url))
        ]
        with prometheus(tmp_path, alerts, targets) as asker:
            yield asker, second.process
    second.process.send_signal(signal.SIGCONT)
    copy.close()
    primary.close()


class TestRedis:
    def test_tells_of_a_copy_that_is_late_and_then_gone(self, redis_nodes):
        asker, copy = redis_nodes
        eventually(lambda: asker.ask("redis_connected_slaves == 1"))
        eventually(lambda: asker.ask("redis_connected_slave_lag_seconds"))
        assert asker.pending() == set()

        copy.send_signal(signal.SIGSTOP)

        eventually(lambda: asker.pending() == {"RedisReplicaLate"})
        eventually(
            lambda: asker.pending() == {"RedisReplicaMissing", "RedisReplicaNone"}
        )
        copy.send_signal(signal.SIGCONT)
        eventually(lambda: asker.pending() == set())

    def test_is_silent_about_one_alone(self, tmp_path, alerts):
        server = start_redis()
        url = next(server).url
        with exporter("prometheus-redis-exporter", f"--redis.addr={url}") as address:
            targets = [(address, {"process": "redis-store"})]
            with prometheus(tmp_path, alerts, targets) as asker:
                eventually(lambda: asker.ask("redis_connected_slaves == 0"))

                assert asker.pending() == set()
        server.close()

    def test_that_is_frozen_is_down_before_prometheus_gives_up(self):
        """Without a word about it nobody would be told: see `RedisDown`."""
        (process,) = (one for one in WATCHERS if one.name == "redis-exporter")
        patience = [one for one in watching.command(STACK, process) if "timeout" in one]
        prometheus = yaml.safe_load((HOME / "prometheus.yml").read_text())["global"]
        server = start_redis()
        started = next(server)
        started.process.send_signal(signal.SIGSTOP)
        with exporter(
            "prometheus-redis-exporter", "--redis.addr=", *patience
        ) as address:
            seconds = float(prometheus["scrape_timeout"].removesuffix("s"))
            with httpx2.Client(
                base_url=f"http://{address}",
                timeout=seconds,
                transport=httpx2.HTTPTransport(retries=5),
            ) as client:
                answer = client.get("/scrape", params={"target": started.url})
        started.process.send_signal(signal.SIGCONT)
        server.close()

        assert "redis_up 0" in answer.text.splitlines()


@contextmanager
def copy_of(primary):
    """Run a copy of a Postgres, by the programs and the user of the primary."""
    proc = Path(f"/proc/{primary.process.pid}")
    user, binaries = proc.stat().st_uid, (proc / "exe").resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="flagon-test-"))
    os.chown(folder, user, -1)
    port = free_port()
    subprocess.run(
        [
            binaries / "pg_basebackup",
            *("--dbname", primary.url, "--pgdata", folder / "data"),
            *("--write-recovery-conf", "--checkpoint", "fast"),
        ],
        check=True,
        user=user,
    )
    with running(
        binaries / "postgres",
        *("-D", folder / "data", f"--port={port}", "--listen_addresses=127.0.0.1"),
        f"--unix_socket_directories={folder}",
        user=user,
    ) as process:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres", process
    shutil.rmtree(folder)


@contextmanager
def watched(folder, alerts, *urls):
    """Look at each Postgres through an exporter of its own."""
    targets = []
    with ExitStack() as entered:
        for number, url in enumerate(urls):
            address = entered.enter_context(
                exporter(
                    "prometheus-postgres-exporter",
                    env={"DATA_SOURCE_NAME": f"{url}?sslmode=disable"},
                )
            )
            labels = {"process": "postgres", "instance": f"postgres-{number}"}
            targets.append((address, labels))
        yield entered.enter_context(prometheus(folder, alerts, targets))


@pytest.fixture
def primary():
    server = start_postgres(wal_level="replica", max_wal_senders="3")
    yield next(server)
    server.close()


class TestPostgres:
    def test_tells_of_a_copy_that_is_late_and_then_gone(
        self, primary, tmp_path, alerts
    ):
        with (
            copy_of(primary) as (url, process),
            watched(tmp_path, alerts, primary.url, url) as asker,
        ):
            eventually(
                lambda: asker.ask(
                    'pg_stat_replication_pg_wal_lsn_diff{state="streaming"}'
                )
            )
            eventually(lambda: asker.ask("count(pg_up == 1) == 2"))
            assert asker.pending() == set()

            run(url, "select pg_wal_replay_pause()")
            run(
                primary.url,
                "create table filled as"
                " select repeat(md5(n::text), 30) from generate_series(1, 80000) n",
            )
            eventually(lambda: asker.pending() == {"PostgresReplicaLate"})
            run(url, "select pg_wal_replay_resume()")
            eventually(lambda: asker.pending() == set())

            process.send_signal(signal.SIGINT)
            eventually(
                lambda: (
                    asker.pending() == {"PostgresReplicaMissing", "PostgresReplicaNone"}
                )
            )

    def test_is_silent_about_one_alone(self, primary, tmp_path, alerts):
        with watched(tmp_path, alerts, primary.url) as asker:
            eventually(lambda: asker.ask("pg_up == 1"))

            assert asker.pending() == set()


def run(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
