"""What an operator does with `flask --app flagon_auth.app …`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup
from sqlalchemy.orm import Session

from flagon_chassis.db import transaction
from flagon_chassis.errors import Failure

from . import keeper
from .clients import parts
from .domain import accounts, audit, clients, factors, grants, keys, mails, purge
from .domain.clients import Registration
from .models import SigningKey
from .settings import Settings


class _Commands(AppGroup):
    """Commands that say in one line why they were refused."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 (as click has it)
        """Run one command.

        :raises click.ClickException: it was refused for a reason that is expected.
        """
        try:
            return super().invoke(ctx)
        except Failure as refused:
            line = f"{refused.title()}. {refused.detail}"
            raise click.ClickException(line) from refused


clients_group = _Commands("clients", help="Programs that may ask for tokens.")
users_group = _Commands("users", help="Accounts of people.")
keys_group = _Commands("keys", help="Keys that sign tokens.")
grants_group = _Commands("grants", help="What people let clients do.")
audit_group = _Commands("audit", help="What happened that matters to security.")


def init_app(app: Flask, settings: Settings) -> None:
    """Add auth's commands to `flask`."""

    @app.cli.command("seed")
    def seed() -> None:
        """Make the keys, the platform's own clients and, in development, accounts."""
        with transaction() as db:
            keys.ensure_keys(db, parts().issuer.sealer, now=_now())
        for entry in _read(settings.clients_file):
            _seed_client(entry)
        accounts = _read(settings.accounts_file)
        if accounts and settings.environment == "production":
            raise click.UsageError("AUTH_ACCOUNTS_FILE is for development only.")
        for entry in accounts:
            _seed_account(entry)

    for group in (clients_group, users_group, keys_group, grants_group, audit_group):
        app.cli.add_command(group)


def _read(path: Path | None) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())) if path else []


def _seed_client(entry: dict[str, Any]) -> None:
    # Who installs the platform vouches for these: people are not asked about them.
    registration = Registration(**{"first_party": True, **entry})
    with transaction() as db:
        clients.put_client(db, registration, now=_now())
    _say({"client": registration.client_id})


def _seed_account(entry: dict[str, Any]) -> None:
    with transaction() as db:
        account, made = accounts.ensure_account(
            db,
            parts().hasher,
            email=entry["email"],
            name=entry["name"],
            password=entry["password"],
            roles=entry["roles"],
            now=_now(),
        )
        _say({"account": str(account.id), "email": account.email, "made": made})


@clients_group.command("create")
@click.argument("name")
@click.option("--redirect-uri", "redirect_uris", multiple=True)
@click.option("--post-logout-redirect-uri", "post_logout_uris", multiple=True)
@click.option("--backchannel-logout-uri", help="Where logout tokens are posted.")
@click.option("--public", is_flag=True, help="Short for --auth-method none.")
@click.option(
    "--auth-method",
    type=click.Choice(clients.AUTH_METHODS),
    help="How it authenticates; `client_secret` (usual) is Basic or in the body.",
)
@click.option(
    "--jwks",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with its public keys, for private_key_jwt.",
)
@click.option(
    "--id-token-alg",
    type=click.Choice(clients.ID_TOKEN_ALGS),
    default=clients.ID_TOKEN_ALGS[0],
    show_default=True,
)
@click.option("--dpop", is_flag=True, help="It gets only tokens bound to a key.")
@click.option("--require-par", is_flag=True, help="It must push its requests.")
@click.option("--first-party", is_flag=True, help="People are not asked to agree.")
@click.option("--scope", default="", help="Scopes it may ask for.")
@click.option("--grant", "grant_types", multiple=True)
def create_client(
    name: str,
    redirect_uris: tuple[str, ...],
    post_logout_uris: tuple[str, ...],
    backchannel_logout_uri: str | None,
    public: bool,
    auth_method: str | None,
    jwks: Path | None,
    id_token_alg: str,
    dpop: bool,
    require_par: bool,
    first_party: bool,
    scope: str,
    grant_types: tuple[str, ...],
) -> None:
    """Register a client and print its id and secret; the secret is shown only now."""
    method = auth_method or _usual_method(public=public, jwks=jwks)
    if public and method != "none":
        raise click.UsageError("A public client authenticates by nothing.")
    secret = clients.new_secret() if method in clients.SECRET_METHODS else None
    chosen = list(grant_types) or _usual_grants(redirect_uris)
    person = "client_credentials" not in chosen or len(chosen) > 1
    registration = Registration(
        client_id=clients.new_client_id(),
        client_secret=secret,
        name=name,
        redirect_uris=list(redirect_uris),
        post_logout_redirect_uris=list(post_logout_uris),
        grant_types=chosen,
        scope=scope or ("openid profile email offline_access" if person else ""),
        first_party=first_party,
        token_endpoint_auth_method=method,
        jwks=_read_jwks(jwks) if jwks else None,
        id_token_signed_response_alg=id_token_alg,
        dpop_bound_access_tokens=dpop,
        require_pushed_authorization_requests=require_par,
        backchannel_logout_uri=backchannel_logout_uri,
    )
    with transaction() as db:
        clients.put_client(db, registration, now=_now())
        _record_client(db, "client_created", registration.client_id)
    _say({"client_id": registration.client_id, "client_secret": secret})


def _usual_method(*, public: bool, jwks: Path | None) -> str:
    if public:
        return "none"
    return "private_key_jwt" if jwks else "client_secret"


def _read_jwks(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise click.UsageError(f"{path} is not JSON.") from error
    # A single key is a set of one.
    return dict(found) if "keys" in found else {"keys": [found]}


def _record_client(db: Session, action: str, client_id: str) -> None:
    audit.record(
        db,
        action,
        account_id=None,
        actor="cli",
        address=None,
        now=_now(),
        client_id=client_id,
    )


@clients_group.command("rotate-secret")
@click.argument("client_id")
@click.option(
    "--overlap-hours",
    type=click.IntRange(0, 24 * 90),
    default=24,
    show_default=True,
    help="How long the present secret goes on working; 0: not at all.",
)
def rotate_secret(client_id: str, overlap_hours: int) -> None:
    """Give a client a new secret and print it; the present one works on for a while."""
    with transaction() as db:
        secret = clients.rotate_secret(
            db, client_id, overlap_seconds=overlap_hours * 3600, now=_now()
        )
        _record_client(db, "client_secret_rotated", client_id)
    _say({"client_id": client_id, "client_secret": secret})


def _usual_grants(redirect_uris: tuple[str, ...]) -> list[str]:
    if redirect_uris:
        return ["authorization_code", "refresh_token"]
    return ["client_credentials"]


@clients_group.command("list")
def list_clients() -> None:
    """Print every client, one a line."""
    with transaction() as db:
        for client in clients.list_clients(db):
            _say(
                {
                    "client_id": client.id,
                    "name": client.name,
                    "public": clients.is_public(client),
                    "auth_method": client.token_endpoint_auth_method,
                    "disabled": client.disabled,
                    "first_party": client.first_party,
                    "redirect_uris": client.redirect_uris,
                    "grant_types": client.grant_types,
                    "scope": client.scope,
                }
            )


@users_group.command("list")
@click.option("--limit", default=100, show_default=True)
def list_users(limit: int) -> None:
    """Print accounts, oldest first, one a line."""
    with transaction() as db:
        for account in accounts.list_accounts(db, limit=limit):
            _say(
                {
                    "id": str(account.id),
                    "email": account.email,
                    "roles": account.roles,
                    "disabled": account.disabled,
                }
            )


@users_group.command("remove-factors")
@click.argument("email")
def remove_factors(email: str) -> None:
    """Remove authenticator app, passkeys and recovery codes of who has lost them all.

    The password alone signs in again. Be sure who asks for it. A mail tells the owner.
    """
    now = _now()
    with transaction() as db:
        account = accounts.find_account_by_email(db, email)
        had = factors.remove_factors(db, account.id)
        mails.send(db, account, "security_changed", now=now, action="factors_removed")
        audit.record(db, "factors_removed", account_id=account.id, actor="cli", now=now)
        _say({"email": account.email, "totp": had.totp, "passkeys": had.passkeys})


@users_group.command("grant")
@click.argument("email")
@click.argument("role", type=click.Choice(accounts.ROLES))
def grant_role(email: str, role: str) -> None:
    """Give an account a role; it counts from the next token on."""
    now = _now()
    with transaction() as db:
        account = accounts.find_account_by_email(db, email)
        wanted = {"roles": sorted({*account.roles, role})}
        changed = accounts.change_account(account, wanted, now=now)
        spent = grants.cut_off(db, account, changed, now=now)
        if changed:
            audit.record(
                db,
                "account_changed",
                account_id=account.id,
                actor="cli",
                now=now,
                changed=changed,
                roles=account.roles,
            )
    if changed:
        parts().denylist.refuse_account(account.id, now=now)
        parts().denylist.refuse_tokens(spent, now=now)
    _say({"id": str(account.id), "roles": account.roles})


@keys_group.command("rotate")
@click.option("--now", "at_once", is_flag=True, help="Do not wait for verifiers.")
def rotate_keys(at_once: bool) -> None:
    """Let the next keys sign and publish new ones."""
    for key in keeper.rotate_keys(actor="cli", at_once=at_once, now=_now()):
        _say_key(key)


# One id in sixty-four begins with a dash and is no option for that.
@keys_group.command("drop", context_settings={"ignore_unknown_options": True})
@click.argument("kid")
def drop_key(kid: str) -> None:
    """Refuse all that a stolen key signed, everywhere, within seconds."""
    _say_key(keeper.drop_key(kid, actor="cli", now=_now()))


@keys_group.command("retire")
def retire_keys() -> None:
    """Take out keys whose tokens have all expired; auth does so by itself, too."""
    with transaction() as db:
        _say({"retired": keys.retire_keys(db, now=_now())})


@keys_group.command("reseal")
def reseal_keys() -> None:
    """Encrypt all that is stored sealed under the present AUTH_KEY_ENCRYPTION_KEY."""
    _say(keeper.reseal())


@keys_group.command("list")
def list_keys() -> None:
    """Print every key's id, algorithm and state, one a line."""
    with transaction() as db:
        for key in keys.list_keys(db):
            _say_key(key)


@grants_group.command("purge")
def purge_grants() -> None:
    """Forget what ended more than a week ago; happens by itself as well."""
    with transaction() as db:
        _say({"purged": (purge.purge(db, now=_now()) or {}).get("grants", 0)})


@audit_group.command("verify")
def verify_audit_log() -> None:
    """Check that no record was changed, removed or inserted."""
    with transaction() as db:
        _say({"records": audit.verify(db), "intact": True})


@audit_group.command("list")
@click.option("--limit", default=100, show_default=True)
def list_audit_log(limit: int) -> None:
    """Print the newest records, one a line."""
    with transaction() as db:
        for record in audit.list_records(db, limit=limit):
            _say(
                {
                    "sequence": record.sequence,
                    "occurred_at": record.occurred_at.isoformat(),
                    "action": record.action,
                    "account": str(record.account_id) if record.account_id else None,
                    "actor": record.actor,
                    "address": record.address,
                    **record.details,
                }
            )


def _say_key(key: SigningKey) -> None:
    _say(
        {
            "kid": key.kid,
            "alg": key.alg,
            "state": key.state,
            "created_at": key.created_at.isoformat(),
            "activated_at": _said(key.activated_at),
            "retire_at": _said(key.retire_at),
            "dropped_at": _said(key.dropped_at),
        }
    )


def _said(when: datetime | None) -> str | None:
    return when.isoformat() if when else None


def _say(line: dict[str, Any]) -> None:
    click.echo(json.dumps(line))


def _now() -> datetime:
    return datetime.now(UTC)
