"""Secrets of a stack: made once at the first start, one file each."""

import base64
import json
import secrets
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from .files import write
from .problem import Problem
from .processes import OWNERS, RABBITMQ, READABLE, SERVICES
from .stack import Stack

REDIS_USERS = ("admin", "monitor", *SERVICES)
REDIS_KEEPERS = ("replica", "sentinel")
"""Where there are several Redis: those that copy, and those that watch them."""
RABBITMQ_USERS = (*OWNERS, "realtime")
"""Who sends and takes tasks and events, and who follows these."""

_TEXTS = (
    "postgres_password",
    "monitor_postgres_password",
    "backup_postgres_password",
    *(f"{name}_postgres_password" for name in OWNERS),
    *(f"{name}_owner_postgres_password" for name in OWNERS),
    *(f"{name}_reader_postgres_password" for name in READABLE),
    *(f"redis_{name}_password" for name in REDIS_USERS),
    *(f"rabbitmq_{name}_password" for name in RABBITMQ_USERS),
    *(f"{name}_secret_key" for name in SERVICES),
    "web_client_secret",
    "worker_client_secret",
    "web_alerts_token",
    "supervisor_password",
)
_KEYS = ("auth_key_encryption_key",)

ROLES = ("customer", "merchandiser", "operator", "admin")
"""Of the demonstration accounts, least powerful first."""


class Vault:
    """The secrets of one stack.

    :param folder: one file per secret, readable by its owner alone.
    :param mode: of new files; containers need to read them as another user.
    """

    def __init__(self, folder: Path, mode: int = 0o600) -> None:
        self.folder = folder
        self.mode = mode

    def __getitem__(self, name: str) -> str:
        try:
            return (self.folder / name).read_text().strip()
        except FileNotFoundError:
            message = f"The secret {name} is missing in {self.folder}."
            raise Problem(message, "make up") from None

    def put(self, name: str, value: str) -> None:
        """Write one secret."""
        write(self.folder / name, value, self.mode)

    def fill(self, more: tuple[str, ...] = ()) -> list[str]:
        """Make what is missing and return its names; safe after a kill half-way.

        :param more: names of passwords beside those that every stack has.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        made = []
        for name in (*_TEXTS, *_KEYS, *more):
            if not (self.folder / name).exists():
                # The alphabet of token_urlsafe needs no quoting in a URL or a config file.
                raw = secrets.token_bytes(32)
                text = base64.urlsafe_b64encode(raw).decode().rstrip("=")
                self.put(
                    name, base64.b64encode(raw).decode() if name in _KEYS else text
                )
                made.append(name)
        return made


def database_url(stack: Stack, vault: Vault, owner: str, *, as_owner: bool) -> str:
    """Return the URL of a service's database for the service or for its migrations."""
    role = f"{owner}_owner" if as_owner else owner
    password = quote(vault[f"{role}_postgres_password"], safe="")
    address = stack.address("postgres")
    return f"postgresql+psycopg://{role}:{password}@{address}/{owner}"


def redis_url(stack: Stack, vault: Vault, user: str, instance: str) -> str:
    """Return the URL of a Redis instance (`redis-store` or `redis-cache`) for a user."""
    password = quote(vault[f"redis_{user}_password"], safe="")
    return f"redis://{user}:{password}@{stack.address(instance)}/0"


def broker_url(stack: Stack, vault: Vault, user: str) -> str:
    """Return the URL of what tasks wait in, for a user."""
    return _messages_url(stack, vault, user, stack.broker)


def event_bus_url(stack: Stack, vault: Vault, user: str) -> str:
    """Return the URL of what events travel on, for a user."""
    return _messages_url(stack, vault, user, stack.event_bus)


def _messages_url(stack: Stack, vault: Vault, user: str, chosen: str) -> str:
    if chosen != RABBITMQ.name:
        return redis_url(stack, vault, user, "redis-store")
    password = quote(vault[f"rabbitmq_{user}_password"], safe="")
    return f"amqp://{user}:{password}@{stack.address(RABBITMQ.name)}"


def rabbitmq_variables(vault: Vault) -> dict[str, str]:
    """Return what RabbitMQ's definitions need: salted hashes instead of passwords.

    https://www.rabbitmq.com/docs/passwords#computing-password-hash
    """

    def hashed(password: str) -> str:
        salt = secrets.token_bytes(4)
        digest = sha256(salt + password.encode()).digest()
        return base64.b64encode(salt + digest).decode()

    return {
        f"RABBITMQ_{name.upper()}_HASH": hashed(vault[f"rabbitmq_{name}_password"])
        for name in RABBITMQ_USERS
    }


def redis_variables(
    stack: Stack, vault: Vault, users: tuple[str, ...] = REDIS_USERS
) -> dict[str, str]:
    """Return what the ACL templates need: hashes, so the files hold no password."""
    return {"REDIS_AUTH_MAILS": MAILS[stack.mail_queue]} | {
        f"REDIS_{name.upper()}_SHA256": sha256(
            vault[f"redis_{name}_password"].encode()
        ).hexdigest()
        for name in users
    }


MAILS = {
    "celery": "(~worker:mail +lpush)",
    "rq": "(~worker:rq:queue:mail +rpush) (~worker:rq:job:* +hset)"
    " (~worker:rq:queues +sadd)",
}
"""What auth may do with what mails wait in: add, and neither read nor take."""


def clients(stack: Stack, vault: Vault) -> list[dict[str, object]]:
    """Return the OAuth clients that exist from the first start."""
    pages = (stack.http_url, stack.https_url)
    return [
        {
            "client_id": "web",
            "client_secret": vault["web_client_secret"],
            "name": "Flagon web",
            "redirect_uris": [f"{url}/callback" for url in pages],
            "post_logout_redirect_uris": [f"{url}/" for url in pages],
            # From inside: the worker reaches web without the gateway.
            "backchannel_logout_uri": f"http://{stack.address('web')}"
            "/backchannel-logout",
            "grant_types": ["authorization_code", "refresh_token"],
            "scope": "openid profile email offline_access reviews:write jobs:read"
            " catalog:write jobs:write ops:read jobs:manage users:read users:write"
            " catalog:purge",
        },
        {
            "client_id": "worker",
            "client_secret": vault["worker_client_secret"],
            "name": "Flagon worker",
            "redirect_uris": [],
            "post_logout_redirect_uris": [],
            "grant_types": ["client_credentials"],
            "scope": "catalog:write catalog:read mails:send logout:deliver",
        },
        {
            "client_id": "cli",
            "client_secret": None,
            "name": "Flagon command line",
            "redirect_uris": ["http://127.0.0.1/callback"],
            "post_logout_redirect_uris": [],
            "grant_types": [
                *("authorization_code", "refresh_token"),
                "urn:ietf:params:oauth:grant-type:device_code",
            ],
            "scope": "openid profile email offline_access reviews:write jobs:read"
            " catalog:write jobs:write ops:read jobs:manage users:read users:write"
            " catalog:purge",
        },
        {
            # "Try it out" in Swagger UI: a page keeps no secret.
            "client_id": "api-pages",
            "client_secret": None,
            "name": "Flagon API pages",
            "redirect_uris": [f"{url}/docs/oauth2-redirect" for url in pages],
            "post_logout_redirect_uris": [],
            "grant_types": ["authorization_code"],
            "scope": "openid reviews:write jobs:read catalog:write jobs:write ops:read"
            " jobs:manage users:read users:write catalog:purge",
        },
    ]


def accounts(path: Path, mode: int = 0o600) -> list[dict[str, object]]:
    """Return the demonstration accounts, made with fresh passwords when missing."""
    if not path.exists():
        made = [
            {
                "email": f"{role}@flagon.test",
                "password": secrets.token_urlsafe(15),
                "roles": [role],
                "name": f"{role.capitalize()} of the demonstration",
            }
            for role in ROLES
        ]
        write(path, json.dumps(made, indent=2) + "\n", mode)
    found: list[dict[str, object]] = json.loads(path.read_text())
    return found
