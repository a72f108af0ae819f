"""What operators run: `flask …`, `python -m flagon_auth …`, and the settings."""

import base64
import json
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from flagon_auth import __main__
from flagon_auth.domain import clients
from flagon_auth.domain.clients import ClientInvalid, Registration
from flagon_auth.models import Base
from flagon_auth.settings import Settings
from flagon_chassis import db

from .conftest import Browser, basic, make_settings, me, refresh

ACCOUNTS = [
    {
        "email": "admin@flagon.test",
        "password": "kettle-marble-55-orchid",
        "roles": ["admin"],
        "name": "Admin of the demonstration",
    },
    {
        "email": "customer@flagon.test",
        "password": "paper-lantern-71-drift",
        "roles": ["customer"],
        "name": "Customer of the demonstration",
    },
]
CLIENTS = [
    {
        "client_id": "seeded",
        "client_secret": "z" * 40,
        "name": "Seeded",
        "redirect_uris": [],
        "post_logout_redirect_uris": [],
        "grant_types": ["client_credentials"],
        "scope": "catalog:read",
    }
]


def run(app, *arguments, ok=True):
    result = app.test_cli_runner().invoke(args=list(arguments))
    assert (result.exit_code == 0) is ok, result.output
    if not ok:
        return result
    return [json.loads(line) for line in result.output.splitlines()]


class TestSeed:
    @pytest.fixture
    def seeded(self, make_app, tmp_path):
        def make(**changes):
            (tmp_path / "clients.json").write_text(json.dumps(CLIENTS))
            (tmp_path / "accounts.json").write_text(json.dumps(ACCOUNTS))
            return make_app(
                clients_file=tmp_path / "clients.json",
                accounts_file=tmp_path / "accounts.json",
                **changes,
            )

        return make

    def test_makes_clients_and_accounts(self, seeded):
        app = seeded()

        run(app, "seed")

        browser = Browser(app)
        assert browser.sign_in("admin@flagon.test", ACCOUNTS[0]["password"])
        assert "users:write" in browser.tokens(scope=None)["scope"]
        answer = app.test_client().post(
            "/oauth/token",
            data={"grant_type": "client_credentials"},
            headers=basic("seeded", "z" * 40),
        )
        assert answer.json["scope"] == "catalog:read"

    def test_twice_changes_nothing(self, seeded):
        app = seeded()

        first = run(app, "seed")
        second = run(app, "seed")

        assert [line.get("made") for line in first] == [None, True, True]
        assert [line.get("made") for line in second] == [None, False, False]
        assert [line.get("account") for line in first] == [
            line.get("account") for line in second
        ]

    def test_puts_a_changed_account_right(self, seeded):
        app = seeded()
        run(app, "seed")
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set password_hash = 'x'"))
            session.execute(text("update account set disabled = true"))

        run(app, "seed")

        answer = Browser(app).sign_in("admin@flagon.test", ACCOUNTS[0]["password"])
        assert answer.status_code == 303

    def test_makes_no_demonstration_accounts_in_production(self, seeded):
        result = run(seeded(environment="production"), "seed", ok=False)

        assert "development only" in result.output

    def test_takes_a_file_that_names_nobody_in_production(self, make_app, tmp_path):
        (tmp_path / "accounts.json").write_text("[]")
        accounts = tmp_path / "accounts.json"

        app = make_app(accounts_file=accounts, environment="production")

        assert run(app, "seed") == []

    def test_needs_no_files(self, make_app):
        assert run(make_app(), "seed") == []


class TestClients:
    @pytest.fixture(autouse=True)
    def clean(self, app):
        yield
        with app.app_context(), db.transaction() as session:
            session.execute(text("delete from client where name like 'Test %'"))
            session.execute(text("delete from client where id = 'seeded'"))

    def test_create_prints_what_works(self, app, ada):
        (line,) = run(
            app,
            *("clients", "create", "Test app", "--redirect-uri", "https://t.test/cb"),
            *("--scope", "openid reviews:write"),
        )

        page = ada.authorize(
            client_id=line["client_id"], redirect_uri="https://t.test/cb"
        )

        assert len(line["client_secret"]) >= 43
        assert "Test app" in page.get_data(as_text=True)

    def test_create_public_has_no_secret(self, app):
        (line,) = run(
            app,
            *("clients", "create", "Test cli", "--public"),
            *("--redirect-uri", "http://127.0.0.1/cb"),
        )

        assert line["client_secret"] is None

    def test_create_without_an_address_is_for_a_service(self, app):
        (line,) = run(app, "clients", "create", "Test job", "--scope", "catalog:read")

        answer = app.test_client().post(
            "/oauth/token",
            data={"grant_type": "client_credentials"},
            headers=basic(line["client_id"], line["client_secret"]),
        )

        assert answer.json["scope"] == "catalog:read"

    def test_create_first_party_asks_nobody(self, app, ada):
        (line,) = run(
            app,
            *("clients", "create", "Test own", "--redirect-uri", "https://t.test/cb"),
            *("--first-party", "--grant", "authorization_code"),
        )

        answer = ada.authorize(
            client_id=line["client_id"], redirect_uri="https://t.test/cb"
        )

        assert answer.status_code == 302

    def test_create_refuses_what_is_wrong_in_one_line(self, app):
        result = run(
            app,
            *("clients", "create", "Test bad", "--redirect-uri", "http://evil.test"),
            ok=False,
        )

        assert "must be https" in result.output
        assert "Traceback" not in result.output

    def test_list_shows_no_secret(self, app):
        lines = run(app, "clients", "list")

        assert {line["client_id"] for line in lines} >= {"web", "cli", "worker"}
        assert not [line for line in lines if {"secret", "client_secret"} & set(line)]


class TestRegistration:
    GOOD = Registration("id", "Name", "s" * 40, ["https://a.test/cb"])

    @pytest.mark.parametrize(
        "changes",
        [
            {"client_id": ""},
            {"client_id": "a b"},
            {"client_id": "a\0b"},
            {"client_secret": "short"},
            {"redirect_uris": []},
            {"redirect_uris": ["http://a.test/cb"]},
            {"redirect_uris": ["https://a.test/cb#f"]},
            {"redirect_uris": ["https://a.test/cb#"]},
            {"redirect_uris": ["https://*.a.test/cb"]},
            {"redirect_uris": ["https://u:p@a.test/cb"]},
            {"redirect_uris": ["https://ä.test/cb"]},
            {"redirect_uris": ["https://a.test:99999/"]},
            {"redirect_uris": ["javascript:alert(1)"]},
            {"redirect_uris": ["data:text/html,x"]},
            {"redirect_uris": ["myapp:/cb"]},
            {"redirect_uris": ["/cb"]},
            {"post_logout_redirect_uris": ["http://a.test"]},
            {"grant_types": ["password"]},
            {"scope": "root"},
            {"client_secret": None, "grant_types": ["client_credentials"]},
        ],
    )
    def test_refuses_what_is_unsafe(self, app, changes):
        bad = Registration(**{**self.GOOD.__dict__, **changes})

        with (
            app.app_context(),
            pytest.raises(ClientInvalid),
            db.transaction() as session,
        ):
            clients.put_client(session, bad, now=datetime.now(UTC))

    @pytest.mark.parametrize(
        "uri",
        ["https://a.test:8443/cb?x=1", "http://localhost:1/cb", "com.example.app:/cb"],
    )
    def test_takes_what_is_safe(self, uri):
        clients._check(Registration("id", "Name", None, [uri]))


class TestUsers:
    def test_grant_gives_a_role_at_once(self, app, ada):
        before = ada.tokens(scope=None)

        (line,) = run(app, "users", "grant", "ADA@flagon.test", "merchandiser")

        assert line["roles"] == ["customer", "merchandiser"]
        assert me(app, before).status_code == 401
        assert "catalog:write" in ada.tokens(scope=None)["scope"]

    def test_grant_again_changes_nothing(self, app, ada):
        tokens = ada.tokens()

        run(app, "users", "grant", "ada@flagon.test", "customer")

        assert me(app, tokens).status_code == 200

    def test_grant_refuses_an_unknown_address_in_one_line(self, app):
        result = run(app, "users", "grant", "no@flagon.test", "admin", ok=False)

        assert "No account" in result.output

    def test_grant_refuses_an_unknown_role(self, app, ada):
        assert run(app, "users", "grant", "ada@flagon.test", "king", ok=False)

    def test_list_shows_who_there_is(self, app, person):
        person()

        assert run(app, "users", "list")[0]["email"] == "ada@flagon.test"


class TestKeys:
    def test_rotate_and_list(self, fresh_app):
        young = run(fresh_app, "keys", "rotate", ok=False)
        rotated = run(fresh_app, "keys", "rotate", "--now")

        assert "may sign from" in young.output
        assert rotated == run(fresh_app, "keys", "list")
        assert len(rotated) == 6
        assert "private" not in json.dumps(rotated)


class TestPurge:
    def test_forgets_only_what_ended_long_ago(self, app, ada):
        for days in (8, 6):
            ada.tokens()
            with app.app_context(), db.transaction() as session:
                session.execute(
                    text(
                        "update token_grant set revoked_at = :at"
                        " where revoked_at is null"
                    ),
                    {"at": datetime.now(UTC) - timedelta(days=days)},
                )
        ada.code()
        living = ada.tokens()

        assert run(app, "grants", "purge") == [{"purged": 1}]
        assert refresh(app, living["refresh_token"]).status_code == 200

    def test_forgets_codes_that_nobody_redeemed(self, app, ada):
        ada.code()
        with app.app_context(), db.transaction() as session:
            session.execute(
                text(
                    "update authorization_code set expires_at = now() - '8d'::interval"
                )
            )

        assert run(app, "grants", "purge") == [{"purged": 1}]


class TestMain:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch, database_url):
        key = base64.b64encode(b"k" * 32).decode()
        for name, value in {
            "SECRET_KEY": "s" * 40,
            "KEY_ENCRYPTION_KEY": key,
            "DATABASE_URL": database_url,
            "OWNER_DATABASE_URL": database_url,
        }.items():
            monkeypatch.setenv(f"AUTH_{name}", value)

    def test_serves_the_app(self):
        with patch("flagon_chassis.server.serve") as serve:
            __main__.main("serve")

        assert serve.call_args.args[1] == "flagon_auth.app:create_app()"

    def test_relays_its_own_outbox(self):
        with patch("flagon_chassis.relay.run") as relay:
            __main__.main("relay")

        assert relay.call_args.args[1] == "auth"

    def test_migrates_again_without_harm(self):
        __main__.main("migrate")

    def test_says_what_it_knows(self):
        with pytest.raises(SystemExit, match="serve, relay or migrate"):
            __main__.main("dance")


class TestMigrations:
    def test_add_up_to_the_models_and_back(self, make_database):
        from alembic import command

        url = make_database()
        config = db.config(url, __main__.MIGRATIONS, Base.metadata)
        command.upgrade(config, "head")
        config.attributes["metadata"] = [Base.metadata, chassis_tables()]
        command.check(config)
        command.downgrade(config, "base")
        command.upgrade(config, "head")


def chassis_tables():
    from sqlalchemy import MetaData

    from flagon_chassis.tables import METADATA

    mine = MetaData(naming_convention=METADATA.naming_convention)
    for name in ("outbox", "idempotency_key", "errand"):
        METADATA.tables[name].to_metadata(mine)
    return mine


class TestSettings:
    @pytest.mark.parametrize(
        "changes",
        [
            {"key_encryption_key": "short"},
            {"key_encryption_key": "!" * 44},
            {"public_url": "ftp://localhost"},
            {"public_url": "http://"},
            {"public_url": "http://localhost/"},
            {"public_url": "http://localhost?x"},
            {"public_url": "http://shop.test", "environment": "production"},
            {"session_cookie": "a b"},
            {"code_seconds": 61},
            {"access_token_seconds": 901},
        ],
    )
    def test_refuse_what_is_unsafe(self, changes):
        with pytest.raises(ValidationError):
            make_settings("postgresql://x", **changes)

    @pytest.mark.parametrize(
        ("url", "environment"),
        [
            ("https://shop.test", "production"),
            ("http://localhost:8080", "production"),
            ("http://shop.test", "development"),
        ],
    )
    def test_take_what_is_safe(self, url, environment):
        made = make_settings("postgresql://x", public_url=url, environment=environment)

        assert isinstance(made, Settings)

    def test_have_no_default_for_secrets(self):
        with pytest.raises(ValidationError, match="key_encryption_key"):
            Settings(secret_key="s" * 40, database_url="x")
