"""oidc-provider, a certified provider in JavaScript: people sign in to auth with it."""

import json
import re
import subprocess
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import urljoin

import httpx2
import pytest

from flagon_chassis.testing import free_port

from .conftest import EMAIL, PASSWORD, Provider, node_library, running_auth

HERE = Path(__file__).parent
SECRET = "outside-secret-" + "s" * 30


@contextmanager
def outside(redirect_uri):
    """Run oidc-provider and give its issuer."""
    script = HERE / "oidc_provider.mjs"
    library = node_library("oidc-provider/lib/index.js")
    process = subprocess.Popen(
        ["node", "--no-warnings", script, library, redirect_uri, "flagon", SECRET],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="module")
def auth(make_database, redis_server, tmp_path_factory):
    """Auth, at which people may sign in with oidc-provider."""
    folder, port = tmp_path_factory.mktemp("outside"), free_port()
    found = Provider(f"http://localhost:{port}")
    with outside(f"{found.issuer}/social/judge/callback") as issuer:
        assert issuer.startswith("http://127.0.0.1:")
        file = folder / "providers.json"
        about = {
            "name": "judge",
            "label": "Judge",
            "issuer": issuer,
            "client_id": "flagon",
            "client_secret": SECRET,
        }
        file.write_text(json.dumps([about]))
        with running_auth(
            found,
            folder,
            database=make_database(),
            redis=redis_server.url,
            port=port,
            PROVIDERS_FILE=str(file),
        ):
            yield found


def submit(client, page, number=0, **typed):
    """Send one of the page's forms, with what a person types."""
    form = page.text.split("<form")[number + 1].split("</form>")[0]
    fields = {}
    for tag in re.findall(r"<input[^>]*>", form):
        name = re.search(r'\bname="([^"]*)"', tag)
        value = re.search(r'\bvalue="([^"]*)"', tag)
        if name:
            fields[name[1]] = unescape(value[1]) if value else ""
    action = unescape(re.search(r'\baction="([^"]*)"', form)[1])
    return client.post(urljoin(str(page.url), action), data={**fields, **typed})


def go_there_and_back(client, auth, name):
    """Sign in at oidc-provider under a name, and return auth's page after that."""
    page = client.get(f"{auth.issuer}/login")
    forms = page.text.split("<form")[1:]
    number = next(n for n, form in enumerate(forms) if "/social/judge/start" in form)
    page = submit(client, page, number)
    assert "127.0.0.1" in str(page.url), page.text[:500]
    page = submit(client, page, login=name, password="anything")
    return submit(client, page)


@pytest.fixture
def client():
    with httpx2.Client(follow_redirects=True, timeout=30, trust_env=False) as client:
        yield client


def test_signs_somebody_new_in(auth, client):
    page = go_there_and_back(client, auth, "ada")

    assert str(page.url) == f"{auth.issuer}/account"
    assert "ada@judge.test" in page.text
    assert "Judge ada" in page.text


def test_signs_the_same_person_in_again(auth):
    for _ in range(2):
        with httpx2.Client(follow_redirects=True, trust_env=False) as client:
            page = go_there_and_back(client, auth, "bob")
            assert "bob@judge.test" in page.text


def test_without_a_verified_address_signs_nobody_in(auth, client):
    page = go_there_and_back(client, auth, "unsure")

    assert page.status_code == 403
    assert client.get(f"{auth.issuer}/account").url.path == "/login"


def test_that_is_refused_there_leads_back(auth, client):
    page = client.get(f"{auth.issuer}/login")
    forms = page.text.split("<form")[1:]
    number = next(n for n, form in enumerate(forms) if "/social/judge/start" in form)
    page = submit(client, page, number)

    abort = re.search(r'href="([^"]*/abort)"', page.text)[1]
    page = client.get(urljoin(str(page.url), abort))

    assert page.url.path == "/login"
    assert "did not work" in page.text


def test_can_be_connected_by_who_has_an_account(auth, client):
    page = client.get(f"{auth.issuer}/login")
    submit(client, page, email=EMAIL, password=PASSWORD)

    page = client.get(f"{auth.issuer}/account/identities")
    forms = page.text.split("<form")[1:]
    number = next(n for n, form in enumerate(forms) if "/social/judge/start" in form)
    page = submit(client, page, number)
    page = submit(client, page, login="carol", password="anything")
    page = submit(client, page)

    assert page.url.path == "/account/identities"
    assert "carol@judge.test" in page.text
