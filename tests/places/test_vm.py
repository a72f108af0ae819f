"""A single machine: the real scripts with a real authority, door and gateway."""

import json
import os
import shutil
import socket
import ssl
import subprocess
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest
import yaml
from cryptography import x509
from flagonctl import authority
from k8s.rules import confidential, settings_of, strings
from local.conftest import free_port, listens, own_folder, wait_for

from flagon_chassis.testing import lacking

from .recipes import DEPLOY, ROOT, loaded, text_of

HOST = "shop.example.com"
NEEDED = ("lego", "pebble", "pebble-challtestsrv", "nginx")


@contextmanager
def running(*command, port, **variables):
    """A program, once it listens; it is ended afterwards."""
    process = subprocess.Popen(
        command,
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin", **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: listens(port))
        yield process
    finally:
        process.terminate()
        process.wait(40)


def nginx(folder, text):
    """The command of an nginx with a configuration, whose workers are who we are."""
    (folder / "door.conf").write_text(text)
    user = " user root;" if os.geteuid() == 0 else ""
    rest = ("-e", "stderr", "-c", folder / "door.conf", "-g", f"daemon off;{user}")
    return ("nginx", *rest)


@pytest.fixture
def machine():
    """A folder for the state, a door, and an authority that looks at the door."""
    for program in NEEDED:
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            lacking(program, "`make setup JUDGES=1`")
    with own_folder(0o755) as folder, ExitStack() as stack:
        ports = {name: free_port() for name in ("door", "acme", "manage", "dns", "tls")}
        door = text_of("vm/door.conf")
        for before, after in (
            # First what is part of the others' places.
            ("/tmp/", f"{folder}/door-"),
            ("listen 8080", f"listen 127.0.0.1:{ports['door']}"),
            ("/srv/challenges", f"{folder}/vm/challenges"),
        ):
            assert before in door
            door = door.replace(before, after)
        stack.enter_context(running(*nginx(folder, door), port=ports["door"]))
        authority.ensure(folder / "authority")
        stack.enter_context(
            running(
                *("pebble-challtestsrv", "-defaultIPv4", "127.0.0.1"),
                *("-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""),
                *("-dns01", f"127.0.0.1:{ports['dns']}"),
                *("-management", f"127.0.0.1:{ports['manage']}"),
                port=ports["manage"],
            )
        )
        config = {
            "listenAddress": f"127.0.0.1:{ports['acme']}",
            "certificate": str(folder / "authority" / "server.pem"),
            "privateKey": str(folder / "authority" / "server.key"),
            "httpPort": ports["door"],
            "tlsPort": ports["tls"],
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
        stack.enter_context(
            running(
                *("pebble", "-config", folder / "pebble.json"),
                *("-dnsserver", f"127.0.0.1:{ports['dns']}"),
                port=ports["acme"],
                PEBBLE_VA_NOSLEEP="1",
            )
        )
        yield folder, ports


def certify(folder, ports, **variables):
    """Run the script as the timer does."""
    done = subprocess.run(
        ["sh", DEPLOY / "vm" / "certificate.sh"],
        check=False,
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "FLAGON_HOST": HOST,
            "FLAGON_MAIL": "you@example.com",
            "FLAGON_STATE": str(folder),
            "ACME_SERVER": f"https://localhost:{ports['acme']}/dir",
            "LEGO_CA_CERTIFICATES": str(folder / "authority" / "ca.pem"),
            "RELOAD": f"echo reloaded >> {folder}/reloads",
            **variables,
        },
    )
    assert done.returncode == 0, done.stderr
    return x509.load_pem_x509_certificate((folder / "vm/tls/tls.crt").read_bytes())


def served(port):
    """The certificate that the gateway shows."""
    context = ssl.create_default_context()
    # Whose it is, is what the test asks.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname=HOST) as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))


@contextmanager
def gateway(folder, port):
    """The gateway with the variables of the recipe, but for its places."""
    given = loaded(text_of("vm/compose.yml"))["services"]["gateway"]["environment"]
    others = iter(count())
    variables = {
        name: str(value).replace("$$", "$") for name, value in given.items()
    } | {
        "GATEWAY_PID": f"{folder}/nginx.pid",
        "GATEWAY_TEMP": f"{folder}/cache",
        "GATEWAY_UPSTREAMS": f"{folder}/upstreams.conf",
        "GATEWAY_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
        "GATEWAY_HTTPS_LISTEN": f"127.0.0.1:{port} ssl",
        "GATEWAY_INTERNAL_LISTEN": f"127.0.0.1:{free_port()}",
        # A word of newer versions than Debian's.
        "GATEWAY_HTTP2": "",
        "GATEWAY_SERVER_NAMES": HOST,
        "GATEWAY_TLS_CERTIFICATE": f"{folder}/vm/tls/tls.crt",
        "GATEWAY_TLS_KEY": f"{folder}/vm/tls/tls.key",
        "GATEWAY_OPEN_FILES": "1024",
        "GATEWAY_CONNECTIONS": "500",
        "GATEWAY_ACCESS_LOG": f"{folder}/access.log",
    }
    variables |= {
        f"GATEWAY_{name}": f"127.0.0.{next(others) + 1}:1"
        for name in ("AUTH", "CATALOG", "REALTIME", "WORKER", "WEB")
    }
    (folder / "cache").mkdir()
    command = (
        *("sh", ROOT / "deploy/k8s/images/gateway.sh", ROOT / "gateway"),
        *(folder / "gateway", ROOT / "deploy/k8s/base/gateway/render.sh"),
    )
    with running(*command, port=port, **variables) as process:
        yield process


class TestCertificate:
    def test_comes_stays_and_is_renewed_while_the_gateway_runs(self, machine):
        folder, ports = machine

        first = certify(folder, ports)
        with gateway(folder, ports["tls"]) as process:
            assert served(ports["tls"]) == first
            names = first.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
            assert names.value.get_values_for_type(x509.DNSName) == [HOST]
            assert "Pebble" in first.issuer.rfc4514_string()

            # The next day there is nothing to do.
            assert certify(folder, ports, RELOAD="false") == first

            pid = f"{folder}/nginx.pid"
            new = certify(
                folder, ports, DAYS="4000", RELOAD=f'kill -HUP "$(cat {pid})"'
            )
            assert new.serial_number != first.serial_number
            wait_for(lambda: served(ports["tls"]) == new)
            assert process.poll() is None

    def test_key_is_for_those_who_may_enter_the_folder(self, machine):
        folder, ports = machine

        certify(folder, ports)

        assert (folder / "vm").stat().st_mode & 0o777 == 0o700
        # The gateway is another user, to whom this folder is mounted alone.
        assert (folder / "vm" / "tls").stat().st_mode & 0o777 == 0o755
        assert (folder / "vm" / "tls" / "tls.key").stat().st_mode & 0o777 == 0o444
        assert (folder / "reloads").read_text() == "reloaded\n"


def merged():
    """Both files as Compose puts them together, for the keys that the second one has."""
    whole = loaded(text_of("../docker-compose.yml"))["services"]
    for name, more in loaded(text_of("vm/compose.yml"))["services"].items():
        one = whole.setdefault(name, {})
        values = {**one.get("environment", {}), **more.get("environment", {})}
        volumes = {_target(each): each for each in one.get("volumes", [])}
        volumes |= {_target(each): each for each in more.get("volumes", [])}
        ports = [*one.get("ports", []), *more.get("ports", [])]
        one.update(more, environment=values, volumes=[*volumes.values()], ports=ports)
    return whole


def _target(volume):
    return volume["target"] if isinstance(volume, dict) else volume.split(":")[1]


class TestCompose:
    def test_opens_the_door_and_tls_alone(self):
        opened = {
            port
            for one in merged().values()
            for port in one.get("ports", [])
            if not port.startswith("127.0.0.1:")
        }

        assert opened == {"80:8080", "443:8443"}

    def test_has_no_image_that_cannot_be_given_by_digest(self):
        for name, one in loaded(text_of("vm/compose.yml"))["services"].items():
            assert one["image"].startswith("${FLAGON_"), name

    def test_lets_everybody_end(self):
        for name, one in merged().items():
            service = name.partition("-")[0]
            if service not in {"auth", "catalog", "realtime", "worker", "web"}:
                continue
            fields = settings_of(service).model_fields
            # As docker-compose.yml has it unless somebody says otherwise.
            said = one["environment"][f"{service.upper()}_DRAIN_SECONDS"]
            drain = int(said.rpartition("-")[2].removesuffix("}"))
            needs = fields["grace_seconds"].default + drain
            assert int(one["stop_grace_period"].removesuffix("s")) >= needs + 4, name

    def test_waits_for_migrations(self):
        whole = merged()
        for service in ("auth", "catalog", "worker"):
            condition = whole[service]["depends_on"][f"{service}-migrate"]["condition"]
            assert condition == "service_completed_successfully"

    def test_widens_nothing_for_a_demonstration(self):
        """What docker-compose.yml sets for one address is set back."""
        base = yaml.safe_load(text_of("../docker-compose.yml"))["services"]
        changed = loaded(text_of("vm/compose.yml"))["services"]
        for service in ("auth", "catalog", "realtime", "worker", "web"):
            prefix = service.upper()
            fields = settings_of(service).model_fields
            for name, value in base[service]["environment"].items():
                if "LIMIT" in name or "PER_ADDRESS" in name:
                    field = fields[name.removeprefix(f"{prefix}_").lower()]
                    given = changed[service]["environment"][name]
                    assert given == str(field.default) != value

    def test_holds_no_secret(self):
        for one in loaded(text_of("vm/compose.yml"))["services"].values():
            assert not set(one.get("environment", {})) & confidential()
            assert not any("PRIVATE KEY" in text for text in strings(one))
