"""A provider that really runs, for programs that we have not written to judge."""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import ECKey

from flagon_chassis.testing import free_port, lacking

EMAIL = "ada@flagon.test"
PASSWORD = "kettle-marble-55-orchid"
CALLBACK = "http://127.0.0.1:9/callback"
GOODBYE = "http://127.0.0.1:9/goodbye"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
SCOPE = "openid profile email offline_access reviews:write jobs:read"
ECKEY = ECKey.generate_key("P-256", {"kid": "judge", "alg": "ES256", "use": "sig"})


def node_library(name):
    """Return the file of a JavaScript library of the judges' folder."""
    file = Path(__file__).parents[2] / ".venv/judges/node_modules" / name
    if shutil.which("node") is None or not file.exists():
        lacking(name.split("/")[0], "BROWSER=1 make setup")
    return file


@dataclass
class Provider:
    """Where it is, and what is registered there."""

    issuer: str
    email: str = EMAIL
    password: str = PASSWORD
    callback: str = CALLBACK
    goodbye: str = GOODBYE
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    private_jwk: dict = field(default_factory=lambda: ECKEY.as_dict(private=True))

    def clients(self):
        """Return the registrations, one for each way to be a client."""
        person = {
            "redirect_uris": [CALLBACK],
            "post_logout_redirect_uris": [GOODBYE],
            "grant_types": ["authorization_code", "refresh_token", DEVICE],
            "scope": SCOPE,
        }
        whole = {
            **person,
            "client_secret": self.secret,
            "grant_types": [*person["grant_types"], "client_credentials"],
        }
        signs = {
            **whole,
            "client_secret": None,
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [ECKEY.as_dict(private=False)]},
        }
        entries = {
            "post": {**whole, "token_endpoint_auth_method": "client_secret_post"},
            "basic": {**whole, "token_endpoint_auth_method": "client_secret_basic"},
            "either": {**whole, "token_endpoint_auth_method": "client_secret"},
            "signs": signs,
            "public": {**person, "client_secret": None},
            "curve": {**whole, "id_token_signed_response_alg": "ES256"},
            "pushes": {**whole, "require_pushed_authorization_requests": True},
            "bound": {**whole, "dpop_bound_access_tokens": True},
            "asks": {**whole, "first_party": False},
            # As careful as it gets: FAPI 2.0 is made of these.
            "careful": {
                **signs,
                "require_pushed_authorization_requests": True,
                "dpop_bound_access_tokens": True,
            },
        }
        return [
            {"client_id": name, "name": name, **entry}
            for name, entry in entries.items()
        ]


@pytest.fixture(scope="session")
def provider(make_database, redis_server, tmp_path_factory):
    """Start auth as operators do, with a database and a Redis of its own."""
    folder, port = tmp_path_factory.mktemp("provider"), free_port()
    found = Provider(f"http://localhost:{port}")
    with running_auth(
        found, folder, database=make_database(), redis=redis_server.url, port=port
    ):
        yield found


@contextmanager
def running_auth(found, folder, *, database, redis, port, **more):
    """Run auth with one account and every kind of client.

    :param more: further settings.
    """
    (folder / "clients.json").write_text(json.dumps(found.clients()))
    (folder / "accounts.json").write_text(
        json.dumps(
            [
                {
                    "email": EMAIL,
                    "password": PASSWORD,
                    "name": "Ada Example",
                    "roles": ["customer"],
                }
            ]
        )
    )
    variables = {
        "ENVIRONMENT": "testing",
        "SECRET_KEY": secrets.token_hex(32),
        "KEY_ENCRYPTION_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "DATABASE_URL": database,
        "OWNER_DATABASE_URL": database,
        "REDIS_STORE_URL": redis,
        "REDIS_CACHE_URL": redis,
        "PUBLIC_URL": found.issuer,
        "BIND": f"127.0.0.1:{port}",
        "WORKERS": "1",
        "CLIENTS_FILE": str(folder / "clients.json"),
        "ACCOUNTS_FILE": str(folder / "accounts.json"),
        **more,
    }
    environment = {
        **os.environ,
        **{f"AUTH_{name}": value for name, value in variables.items()},
    }
    binaries = Path(sys.executable).parent
    for command in (
        [sys.executable, "-m", "flagon_auth", "migrate"],
        [binaries / "flask", "--app", "flagon_auth.app", "seed"],
    ):
        subprocess.run(command, env=environment, check=True, cwd=folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flagon_auth", "serve"],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(found.issuer, process, folder / "log")
        yield
    finally:
        process.terminate()
        process.wait(30)


def wait_for(issuer, process, log):
    """Return when the provider answers."""
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            if httpx2.get(f"{issuer}/readyz").status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    pytest.fail(f"auth did not start:\n{log.read_text()[-4000:]}")
