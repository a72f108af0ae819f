"""No password, code, token or secret is readable at rest or in a log."""

import base64

import pytest
from sqlalchemy import text

from flagon_chassis import db
from flagon_chassis.testing import hearing

from .conftest import (
    OTHER_SECRET,
    PASSWORD,
    VERIFIER,
    WEB_SECRET,
    WORKER_SECRET,
    Browser,
    fields,
    redeem,
    refresh,
    revoke,
    token_request,
)
from .factors import enable_totp, second_step


@pytest.fixture
def heard(app):
    """What is logged, before anything of it is hidden."""
    with hearing() as heard:
        yield heard


@pytest.fixture
def lived(app, heard):
    """A browser and clients that did everything, and every secret they saw."""
    browser = Browser(app)
    hidden = browser.form("/register")
    browser.post(
        "/register",
        {**hidden, "name": "Ada", "email": "ada@flagon.test", "password": PASSWORD},
    )
    browser.sign_in(password="wrong-but-still-secret-1")
    browser.sign_in()
    code = browser.code()
    first = redeem(app, code).json
    second = refresh(app, first["refresh_token"]).json
    service = token_request(app, "worker", grant_type="client_credentials").json
    redeem(app, code, code_verifier="wrong" * 12)
    revoke(app, second["access_token"])
    third = browser.tokens()
    revoke(app, third["refresh_token"])
    fourth = browser.tokens()
    cookie = browser.cookies()["flagon_login"].value
    csrf = browser.form("/account")["csrf_token"]
    phone, recovery_codes = enable_totp(browser)
    for proof in ({"code": phone.code(1)}, {"recovery_code": recovery_codes[0]}):
        other = Browser(app)
        other.sign_in()
        assert second_step(other, **proof).status_code == 303
    browser.get("/logout", query_string={"id_token_hint": fourth["id_token"]})
    secrets = {
        PASSWORD,
        "wrong-but-still-secret-1",
        code,
        VERIFIER,
        WEB_SECRET,
        WORKER_SECRET,
        OTHER_SECRET,
        cookie,
        csrf,
        phone.secret.hex(),
        base64.b32encode(phone.secret).decode(),
        *recovery_codes,
        *(code.replace("-", "") for code in recovery_codes),
    }
    for answer in (first, second, third, fourth, service):
        secrets |= {value for name, value in answer.items() if name.endswith("_token")}
    return secrets


def test_dump_of_all_tables_holds_no_secret(app, lived):
    with app.app_context(), db.transaction() as session:
        names = list(
            session.scalars(
                text("select tablename from pg_tables where schemaname = 'public'")
            )
        )
        rows = [str(row) for name in names for row in session.execute(table_text(name))]

    assert len(rows) > 10
    for secret in lived:
        assert not [row for row in rows if secret in row], secret


def table_text(name):
    # Bytes as text and as hexadecimal digits: a secret may hide in either.
    return text(
        f"select t::text, encode(convert_to(t::text, 'utf8'), 'escape') from {name} t"
    )


def test_private_keys_are_sealed(app, lived):
    with app.app_context(), db.transaction() as session:
        rows = session.execute(
            text("select public_jwk::text, private_sealed from signing_key")
        ).all()

    for public, sealed in rows:
        assert '"d"' not in public
        assert b'"d"' not in bytes(sealed)
        assert b"PRIVATE" not in bytes(sealed)


def test_redis_holds_no_secret(lived, store):
    stored = []
    for key in store.keys("*"):
        read = {"string": store.get, "hash": store.hgetall}.get(store.type(key))
        value = read(key) if read else store.zrange(key, 0, -1)
        stored.append(key + str(value))

    assert stored
    for secret in lived:
        assert not [entry for entry in stored if secret in entry]


def test_log_holds_no_secret(lived, heard):
    lines = heard()

    assert "signed_in" in lines
    assert "sign_in_refused" in lines
    for secret in lived:
        assert secret not in lines, secret


def test_representations_show_nothing(app, person):
    account = person()

    assert str(account.id) in repr(account)
    assert "ada@" not in repr(account)
    assert "argon2" not in repr(account)


def test_forms_never_come_back_with_the_password(app):
    browser = Browser(app)

    answer = browser.post(
        "/register",
        {**fields(browser.get("/register")), "name": "", "password": PASSWORD},
    )

    assert PASSWORD not in answer.get_data(as_text=True)
