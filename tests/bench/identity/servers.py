"""What is measured: private servers, auth in this process, and auth under gunicorn."""

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import mkdtemp

import psycopg

from flagon_chassis.testing import free_port, start_postgres, start_redis

HERE = Path(__file__).parent
EMAIL, PASSWORD = "bench@flagon.test", "copper-lantern-73-meadow"
CALLBACK = "http://localhost/callback"
CLIENT, SECRET = "bench", secrets.token_urlsafe(32)


@contextmanager
def drawn(generator):
    """Give what a fixture's generator yields, and end it after the block."""
    yield next(generator)
    with suppress(StopIteration):
        next(generator)


@dataclass
class Ground:
    """A database and a Redis with auth's clients and one account in them."""

    environment: dict[str, str]
    folder: Path
    redis: str


@contextmanager
def ground():
    """Make what auth needs to run."""
    with ExitStack() as stack:
        postgres = stack.enter_context(drawn(start_postgres()))
        redis = stack.enter_context(drawn(start_redis()))
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("create database bench")
        database = postgres.url.replace("postgresql:", "postgresql+psycopg:")
        database = database.rsplit("/", 1)[0] + "/bench"
        folder = Path(mkdtemp(prefix="flagon-bench-"))
        account = {
            "email": EMAIL,
            "password": PASSWORD,
            "name": "Bench",
            "roles": ["customer"],
        }
        client = {
            "client_id": CLIENT,
            "name": "Bench",
            "client_secret": SECRET,
            "redirect_uris": [CALLBACK],
            "grant_types": [
                *("authorization_code", "refresh_token", "client_credentials")
            ],
            "scope": "openid offline_access reviews:write jobs:read",
        }
        (folder / "clients.json").write_text(json.dumps([client]))
        (folder / "accounts.json").write_text(json.dumps([account]))
        values = {
            "ENVIRONMENT": "testing",
            "SECRET_KEY": secrets.token_hex(32),
            "KEY_ENCRYPTION_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
            "DATABASE_URL": database,
            "OWNER_DATABASE_URL": database,
            "REDIS_STORE_URL": redis.url,
            "REDIS_CACHE_URL": redis.url.replace("/0", "/1"),
            "PUBLIC_URL": "http://localhost",
            "WORKERS": "1",
            "LOG_LEVEL": "WARNING",
            "RATE_LIMIT": "100000000 per minute",
            "LOGIN_PAIR_LIMIT": "1000000",
            "LOGIN_ACCOUNT_LIMIT": "1000000",
            "LOGIN_ADDRESS_LIMIT": "1000000",
            "CLIENTS_FILE": str(folder / "clients.json"),
            "ACCOUNTS_FILE": str(folder / "accounts.json"),
        }
        environment = {f"AUTH_{name}": value for name, value in values.items()}
        found = Ground(environment, folder, redis.url)
        for command in (
            [sys.executable, "-m", "flagon_auth", "migrate"],
            [Path(sys.executable).parent / "flask", "--app", "flagon_auth", "seed"],
        ):
            subprocess.run(
                command,
                env={**os.environ, **environment},
                check=True,
                cwd=folder,
                stdout=subprocess.DEVNULL,
            )
        yield found


@contextmanager
def served(ground, *command, ready="/readyz"):
    """Run a server of its own and give its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, *command],
        env={
            **os.environ,
            **ground.environment,
            "AUTH_BIND": f"127.0.0.1:{port}",
        },
        cwd=HERE,
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with suppress(OSError):
                connection = HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", ready)
                if connection.getresponse().status == 200:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)
