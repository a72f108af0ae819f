"""What is rendered from the sources in the repository."""

import base64
import json
import os
import re
import shutil
import stat
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from flagonctl import (
    authority,
    commands,
    configuration,
    environment,
    programs,
    templates,
    vault,
)
from flagonctl.local import python_environment
from flagonctl.problem import Problem
from flagonctl.processes import (
    APACHE,
    BY_NAME,
    HAPROXY,
    NGINX,
    OWNERS,
    PROCESSES,
    SERVICES,
    SINK,
    ports,
)
from flagonctl.stack import Stack

from .conftest import ROOT


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose `.run` is empty."""
    for name in ("deploy", "gateway", "services"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture
def local(checkout):
    stack = Stack("local", 23_080, checkout)
    configuration.prepare(stack)
    return stack


@pytest.fixture
def docker(checkout):
    stack = Stack("docker", 23_080, checkout)
    configuration.prepare(stack)
    return stack


def modes(folder):
    return {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in folder.iterdir()
        if path.is_file()
    }


def accepted(*command):
    """What a program says, on standard error, of a configuration that it takes."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


class TestErrorReports:
    def test_go_nowhere_unless_somebody_says_where(self, local, monkeypatch):
        monkeypatch.delenv("FLAGON_SENTRY_DSN", raising=False)

        settings = environment.plain(BY_NAME["web"], local, local.state)

        assert settings["WEB_SENTRY_DSN"] == ""

    def test_go_where_somebody_says(self, local, monkeypatch):
        monkeypatch.setenv("FLAGON_SENTRY_DSN", "https://key@errors.test/1")

        for name in ("web", "worker-relay"):
            settings = environment.plain(BY_NAME[name], local, local.state)
            assert f"{BY_NAME[name].service.upper()}_SENTRY_DSN" in settings
            assert "https://key@errors.test/1" in settings.values()


class TestTraces:
    def test_go_to_the_log_without_a_sink(self, local):
        settings = environment.plain(BY_NAME["web"], local, local.state)

        assert settings["WEB_TRACES"] == "log"
        assert settings["WEB_TRACES_URL"] == ""
        assert "syslog" not in configuration.local_gateway(local)["GATEWAY_ACCESS_LOG"]

    def test_go_to_the_sink_where_there_is_one(self, local):
        configuration.prepare(local, traced=True)
        settings = environment.plain(BY_NAME["web"], local, local.state)

        assert settings["WEB_TRACES"] == "otlp"
        assert settings["WEB_OTLP_URL"] == settings["WEB_TRACES_URL"]
        assert "syslog" in configuration.local_gateway(local)["GATEWAY_ACCESS_LOG"]

    def test_stay_as_they_are_until_somebody_decides(self, docker):
        configuration.prepare(docker, traced=True)
        configuration.prepare(docker)
        known = (docker.state / "compose.env").read_text()
        configuration.prepare(docker, traced=False)
        after = (docker.state / "compose.env").read_text()

        assert "COMPOSE_PROFILES=traces\n" in known
        assert "FLAGON_TRACES=otlp\n" in known
        assert "FLAGON_TRACES=log\n" in after

    def test_nginx_takes_the_lines_for_the_sink(self, local):
        configuration.prepare(local, traced=True)
        text = (local.config / "gateway" / "nginx.conf").read_text()

        assert "access_log /dev/stdout json; access_log syslog:server=" in text


class TestSecrets:
    def test_are_for_their_owner_alone(self, local):
        assert set(modes(local.secrets).values()) == {0o600}
        assert stat.S_IMODE(local.secrets.stat().st_mode) == 0o700
        assert stat.S_IMODE(local.state.stat().st_mode) == 0o700
        assert modes(local.tls)["server.key"] == 0o600
        assert modes(local.tls)["ca.key"] == 0o600

    def test_in_containers_the_folder_keeps_others_out(self, docker):
        assert set(modes(docker.secrets).values()) == {0o444}
        assert stat.S_IMODE(docker.secrets.stat().st_mode) == 0o700
        assert modes(docker.tls)["ca.key"] == 0o600

    def test_stay_the_same(self, local):
        before = {path: path.read_bytes() for path in local.secrets.iterdir()}

        configuration.prepare(local)

        assert {path: path.read_bytes() for path in local.secrets.iterdir()} == before

    def test_are_completed_after_a_kill_half_way(self, local):
        kept = (local.secrets / "web_secret_key").read_text()
        (local.secrets / "postgres_password").unlink()
        (local.secrets / ".auth_secret_key.new").write_text("half")

        configuration.prepare(local)

        assert (local.secrets / "postgres_password").exists()
        assert (local.secrets / "web_secret_key").read_text() == kept

    def test_are_in_no_rendered_file_but_hashed(self, local):
        passwords = [
            path.read_text()
            for path in local.secrets.glob("*password")
            if path.name.startswith("redis_")
        ]
        for path in local.config.rglob("*"):
            if path.is_file():
                assert not any(secret in path.read_text() for secret in passwords)


class TestServer:
    @pytest.mark.parametrize("chosen", ["gunicorn", "uwsgi", "waitress"])
    def test_is_told_to_each_service(self, checkout, chosen):
        stack = Stack("docker", 23_080, checkout)
        stack.choose("server", chosen)
        configuration.prepare(stack)

        told = (stack.state / "compose.env").read_text()
        assert f"FLAGON_SERVER={chosen}\n" in told
        for service in SERVICES:
            process = BY_NAME[service]
            given = environment.plain(process, stack, checkout)
            assert given[f"{service.upper()}_SERVER"] == chosen
            # Containers get it from Compose.
            assert (
                f"{service.upper()}_SERVER: ${{FLAGON_SERVER"
                in (ROOT / "docker-compose.yml").read_text()
            )


class TestRelease:
    def test_is_the_checkouts_commit(self):
        head = subprocess.check_output(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True
        ).strip()

        assert Stack("local", 23_080, ROOT).release.removesuffix("-dirty") == head

    def test_is_told_to_each_service(self, docker):
        told = (docker.state / "compose.env").read_text()
        compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

        # A folder that git knows nothing of.
        assert "FLAGON_RELEASE=local\n" in told
        for service in SERVICES:
            name = f"{service.upper()}_RELEASE"
            given = environment.plain(BY_NAME[service], docker, docker.state)
            contained = compose["services"][service]["environment"]
            assert given[name] == "local"
            assert contained[name] == "${FLAGON_RELEASE:-local}"

    def test_is_that_of_another_tree_where_that_runs(self, local):
        keeper = vault.Vault(local.secrets)
        given = python_environment(local, keeper, BY_NAME["web"], Path("/some/next"))

        assert given["WEB_RELEASE"] == "next"

    def test_is_in_an_image_as_its_label(self):
        dockerfile = (ROOT / "Dockerfile").read_text()

        assert 'image.version="${VERSION}"' in dockerfile
        assert "FLAGON_RELEASE=${VERSION} " in dockerfile


class TestMailQueue:
    @pytest.mark.parametrize("mode", ["local", "docker"])
    def test_is_rq_only_where_it_is_chosen(self, checkout, mode):
        stack = Stack(mode, 23_080, checkout)
        configuration.prepare(stack)
        before = environment.plain(BY_NAME["auth-relay"], stack, stack.state)
        stack.choose("mail_queue", "rq")
        configuration.prepare(stack)
        after = environment.plain(BY_NAME["auth-relay"], stack, stack.state)

        assert "AUTH_MAIL_QUEUE" not in before
        assert after["AUTH_MAIL_QUEUE"] == "rq"
        assert "worker-mail" in [one.name for one in stack.processes]
        targets = (stack.config / "prometheus" / "targets.json").read_text()
        assert stack.address("worker-mail") in targets
        assert "worker:rq:" in (stack.config / "redis-store.acl").read_text()
        if mode == "docker":
            given = (stack.state / "compose.env").read_text()
            assert "FLAGON_MAIL_QUEUE=rq\n" in given
            assert "COMPOSE_PROFILES=rq\n" in given


class TestRabbitMQ:
    @pytest.fixture(params=["broker", "event_bus"])
    def chosen(self, request):
        return request.param

    @pytest.fixture(params=["local", "docker"])
    def stack(self, checkout, request, monkeypatch, chosen):
        # Which one is installed, if any, is the machine's to say.
        monkeypatch.setattr(configuration, "rabbitmq_version", lambda: (3, 10, 8))
        stack = Stack(request.param, 23_080, checkout)
        (stack.state).mkdir(parents=True)
        (stack.state / chosen).write_text("rabbitmq\n")
        configuration.prepare(stack)
        return stack

    def test_is_configured_only_where_it_is_chosen(self, local):
        assert local.broker == local.event_bus == "redis"
        assert not (local.config / "rabbitmq").exists()
        keeper = vault.Vault(local.secrets)
        given = environment.confidential("auth", local, keeper)
        assert given["AUTH_BROKER_URL"] == given["AUTH_REDIS_STORE_URL"]
        assert given["AUTH_EVENT_BUS_URL"] == given["AUTH_REDIS_STORE_URL"]

    def test_gets_users_without_their_passwords(self, stack):
        keeper = vault.Vault(stack.secrets)
        definitions = json.loads(
            (stack.config / "rabbitmq" / "definitions.json").read_text()
        )

        users = {user["name"] for user in definitions["users"]}
        assert users == set(vault.RABBITMQ_USERS)
        for user in definitions["users"]:
            password = keeper[f"rabbitmq_{user['name']}_password"]
            hashed = base64.b64decode(user["password_hash"])
            assert hashed[4:] == sha256(hashed[:4] + password.encode()).digest()
            assert password not in json.dumps(definitions)
            given = environment.confidential(user["name"], stack, keeper)
            name = user["name"].upper()
            assert (password in given.get(f"{name}_BROKER_URL", "")) == (
                stack.broker == "rabbitmq" and user["name"] in OWNERS
            )
            assert (password in given[f"{name}_EVENT_BUS_URL"]) == (
                stack.event_bus == "rabbitmq"
            )
        assert "rabbitmq" in [one.name for one in stack.processes]

    def test_listens_to_loopback_alone_on_this_machine(self, stack):
        text = (stack.config / "rabbitmq" / "rabbitmq.conf").read_text()

        listen = "127.0.0.1:23126" if stack.mode == "local" else "5672"
        assert f"listeners.tcp.default = {listen}\n" in text


class TestSettings:
    def test_every_name_is_one_that_the_service_knows(self, local):
        keeper = vault.Vault(local.secrets)
        for process in PROCESSES:
            if not process.service:
                continue
            source = ROOT / "services" / process.service / "src"
            text = (source / f"flagon_{process.service}" / "settings.py").read_text()
            text += (ROOT / "libs/chassis/src/flagon_chassis/settings.py").read_text()
            known = set(re.findall(r"^    ([a-z_]+):", text, re.MULTILINE))
            given = environment.plain(process, local, local.state)
            given |= environment.confidential(process.service, local, keeper)
            prefix = f"{process.service}_"
            assert {name.lower().removeprefix(prefix) for name in given} <= known

    def test_containers_get_every_secret_as_a_file(self, docker):
        keeper = vault.Vault(docker.secrets)
        for service in ("auth", "catalog", "realtime", "worker", "web"):
            for name, value in environment.confidential(
                service, docker, keeper
            ).items():
                assert (docker.secrets / name.lower()).read_text() == value

    def test_two_stacks_share_no_port(self):
        assert not set(ports(8080).values()) & set(ports(9080).values())
        assert len(set(ports(8080).values())) == len(ports(8080))
        assert ports(8080)["gateway (https)"] == 8443


class TestGateway:
    @pytest.mark.parametrize("newer", [False, True])
    def test_nginx_takes_both_variants(self, local, tmp_path, monkeypatch, newer):
        version = (1, 26) if newer else (1, 22)
        monkeypatch.setattr(configuration, "nginx_version", lambda: version)
        (local.state / "gateway").mkdir()
        variables = configuration.local_gateway(local)
        target = tmp_path / "conf"
        configuration.gateway_files(target, variables, ROOT)
        main = (target / "nginx.conf").read_text()
        assert ("http2 on;" in main) == newer
        if newer and programs.nginx_version() < (1, 25):
            # This nginx does not know the directive: the rest is checked.
            (target / "nginx.conf").write_text(main.replace("http2 on;", ""))

        said = accepted(
            programs.find("nginx"),
            *("-t", "-c", target / "nginx.conf", "-e", "stderr"),
            *("-g", "user root;" if os.geteuid() == 0 else ""),
        )
        assert "[warn]" not in said

    def test_nginx_takes_what_containers_get(self, docker, tmp_path):
        target = tmp_path / "conf"
        shutil.copytree(docker.config / "gateway", target)
        main = (target / "nginx.conf").read_text()
        upstreams = (target / "upstreams.conf").read_text()
        # Names resolve only inside the network of the containers.
        (target / "upstreams.conf").write_text(
            re.sub(r"server [a-z]+:", "server 127.0.0.1:", upstreams)
        )
        (target / "nginx.conf").write_text(
            main.replace("/tmp/upstreams.conf", "upstreams.conf")
            .replace("/etc/nginx/tls", str(docker.tls))
            .replace("/var/cache/nginx", str(tmp_path))
            .replace("http2 on;", "")
        )

        accepted(
            programs.find("nginx"), "-t", "-c", target / "nginx.conf", "-e", "stderr"
        )

    def test_every_variable_is_documented(self, local):
        documented = (ROOT / "gateway" / "README.md").read_text()
        for name in configuration.local_gateway(local):
            assert f"`{name}`" in documented

    def test_a_missing_variable_is_named(self, tmp_path):
        (tmp_path / "a.template").write_text("listen ${GATEWAY_PORT};")

        with pytest.raises(KeyError, match="GATEWAY_PORT"):
            templates.fill_file(tmp_path / "a.template", {})


class TestChooseGateway:
    def test_is_nginx_until_somebody_says_otherwise(self, checkout):
        stack = Stack("local", 23_080, checkout)
        assert stack.gateway == NGINX

        commands.choose_gateway(stack, {"GATEWAY": HAPROXY})

        assert stack.gateway == HAPROXY
        given = environment.plain(BY_NAME["catalog"], stack, stack.state)
        assert given["CATALOG_IMAGES_BY_GATEWAY"] == "false"

    def test_refuses_what_it_does_not_know(self, local):
        with pytest.raises(Problem, match="choose one of: nginx haproxy apache"):
            commands.choose_gateway(local, {"GATEWAY": "traefik"})

    def test_in_containers_haproxy_asks_for_names(self, checkout, installed_haproxy):
        stack = Stack("docker", 23_080, checkout)
        configuration.prepare(stack)
        before = (stack.state / "compose.env").read_text()
        stack.choose("gateway", HAPROXY)
        configuration.prepare(stack)

        after = (stack.state / "compose.env").read_text()
        assert "haproxy/" not in before
        assert "COMPOSE_FILE=docker-compose.yml:gateway/haproxy/compose.yml\n" in after
        text = (stack.config / "gateway" / "haproxy.cfg").read_text()
        assert "server-template catalog 8 catalog:8000 resolvers default" in text
        assert "    bind :8080 tcp-ut 30s\n" in text
        assert str(stack.state) not in text
        # What it reads lies elsewhere for it.
        there = stack.config / "gateway"
        here = there / "here.cfg"
        here.write_text(text.replace("/etc/flagon", str(there)))
        accepted(installed_haproxy, "-c", "-f", here)

    @pytest.mark.parametrize("mode", ["local", "docker"])
    def test_apache_takes_it(self, checkout, installed_apache, mode):
        stack = Stack(mode, 23_080, checkout)
        commands.choose_gateway(stack, {"GATEWAY": APACHE})

        configuration.prepare(stack, watched=True, traced=True)

        (stack.state / "gateway").mkdir()
        folder = stack.config / "gateway"
        text = (folder / "httpd.conf").read_text()
        # What it reads lies elsewhere for it.
        (folder / "httpd.conf").write_text(text.replace("/etc/flagon", str(folder)))
        for name in ("asked", "site", "inside"):
            part = folder / f"{name}.conf"
            part.write_text(part.read_text().replace("/etc/flagon", str(folder)))
        accepted(installed_apache, "-t", "-f", folder / "httpd.conf")
        assert "gateway-exporter" not in [one.name for one in stack.watchers]
        given = (stack.config / "prometheus" / "exporters.json").read_text()
        assert '"gateway"' not in given

    def test_in_containers_apache_asks_for_names(self, checkout):
        stack = Stack("docker", 23_080, checkout)
        stack.choose("gateway", APACHE)

        configuration.prepare(stack)

        files = "COMPOSE_FILE=docker-compose.yml:gateway/apache/compose.yml\n"
        assert files in (stack.state / "compose.env").read_text()
        text = (stack.config / "gateway" / "httpd.conf").read_text()
        assert re.search("http://catalog:8000.* addressttl=1 ", text)
        assert "Listen 8443 https\n" in text
        assert "http://127.0.0.1:8081" in text
        assert str(stack.state) not in text

    def test_haproxy_takes_it_and_tells_of_itself(self, checkout, installed_haproxy):
        stack = Stack("local", 23_080, checkout)
        commands.choose_gateway(stack, {"GATEWAY": HAPROXY})

        configuration.prepare(stack, watched=True, traced=True)

        folder = stack.config / "gateway"
        said = accepted(installed_haproxy, "-c", "-f", folder / "haproxy.cfg")
        assert "WARNING" not in said
        assert modes(folder)["server.pem"] == 0o600
        # Its own line about a request is a span.
        assert (
            f"log {stack.address(SINK.name)} " in (folder / "haproxy.cfg").read_text()
        )
        exporters = json.loads(
            (stack.config / "prometheus" / "exporters.json").read_text()
        )
        places = {one["labels"]["process"]: one["targets"] for one in exporters}
        assert places["gateway"] == [stack.internal_address]
        assert "gateway-exporter" not in [one.name for one in stack.watchers]


class TestCertificates:
    def test_are_renewed_before_they_expire(self, tmp_path):
        authority.ensure(tmp_path)
        authority.certify(tmp_path, days=10)
        before = (tmp_path / "server.pem").read_bytes()
        kept = (tmp_path / "ca.pem").read_bytes()

        assert authority.ensure(tmp_path)
        assert not authority.ensure(tmp_path)

        assert (tmp_path / "server.pem").read_bytes() != before
        # People trusted this one by hand.
        assert (tmp_path / "ca.pem").read_bytes() == kept


class TestPrometheus:
    @pytest.mark.parametrize("mode", ["local", "docker"])
    def test_promtool_takes_it(self, request, mode):
        stack = request.getfixturevalue(mode)
        accepted(
            programs.find("promtool"),
            *("check", "config", stack.config / "prometheus" / "prometheus.yml"),
        )

    def test_every_process_of_ours_is_scraped(self, local):
        found = json.loads((local.config / "prometheus" / "targets.json").read_text())

        scraped = {one["labels"]["process"]: one["targets"][0] for one in found}
        for process in PROCESSES:
            if process.kind == "python":
                address = f"127.0.0.1:{23_080 + process.offset}"
                assert scraped[process.name] == address

    @pytest.mark.parametrize("mode", ["local", "docker"])
    def test_the_sink_of_traces_is_scraped_where_it_is(self, checkout, mode):
        stack = Stack(mode, 23_080, checkout)
        for traced in (False, True, False):
            configuration.prepare(stack, traced=traced)

            targets = (stack.config / "prometheus" / "targets.json").read_text()
            assert (stack.address("traces") in targets) is traced

    def test_rules_say_what_they_should(self, tmp_path):
        test = ROOT / "deploy" / "observability" / "rules" / "tests" / "red_test.yml"
        accepted(programs.find("promtool"), "test", "rules", test)
