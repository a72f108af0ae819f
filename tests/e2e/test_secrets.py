"""After everything: no secret of the run is readable where it was left behind.

Runs last. What the programs of the tests sent and got is in `harness.secrets_seen`; this
searches logs, both Redis, all databases and the gateway's folders for it.
"""

import base64
import hmac
import json
import re
import secrets
import struct
import subprocess
import time

import pytest
from harness.engine import ROOT
from harness.people import Person, browser
from harness.secrets_seen import FINDER, SEEN, TAIL, found
from harness.stack import SERVICES
from harness.waiting import until

_DATABASES = ("auth", "catalog", "worker")
_OF_LATER = {"job_message"}
"""What the release says that `test_upgrade.py` rolls to, and this one does not."""

_WANTED = "tails = set(json.load(sys.stdin))"
_OF_DATABASE = """
import psycopg
from psycopg import sql
hits, rows = {}, 0
url = settings.database_url.get_secret_value().replace("+psycopg", "")
with psycopg.connect(url) as connection:
    names = connection.execute(
        "select tablename from pg_tables where schemaname = 'public'"
    ).fetchall()
    for (name,) in names:
        query = sql.SQL("select t::text from {} t").format(sql.Identifier(name))
        with connection.cursor(name="dump") as cursor:
            # A row may be a megabyte, and a container has 512 of them for everything.
            cursor.itersize = 50
            for (text,) in cursor.execute(query):
                rows += 1
                for hit in found(text, tails):
                    hits[hit] = name
print(json.dumps([hits, rows]))
"""
_OF_REDIS = """
import itertools
import redis
hits, read, unread = {}, [], []
def pages(client, key):
    # The stream is larger than the memory that a container has left.
    last = "-"
    while page := client.xrange(key, last, count=200):
        yield page
        last = "(" + page[-1][0]
readers = {
    "string": lambda client, key: [client.get(key)],
    "hash": lambda client, key: client.hgetall(key).items(),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: client.smembers(key),
    "zset": lambda client, key: client.zrange(key, 0, -1),
    "stream": pages,
}
for name in ("redis_store_url", "redis_cache_url"):
    url = getattr(settings, name).get_secret_value()
    client = redis.Redis.from_url(url, decode_responses=True, encoding_errors="replace")
    for key in client.scan_iter(count=1000):
        try:
            pieces = readers[client.type(key)](client, key)
            for piece in itertools.chain([key], pieces):
                for hit in found(str(piece), tails):
                    hits[hit] = key
        except redis.exceptions.NoPermissionError:
            unread.append(f"{name} {key}")
            continue
        except KeyError:
            continue
        read.append(f"{name} {key}")
print(json.dumps([hits, read, unread]))
"""


@pytest.fixture(scope="module")
def tails(stack, accounts):
    """The ends of every secret of the run, of the stack's own ones too."""
    live(stack, accounts["customer"])
    for account in accounts.values():
        SEEN.add(account["password"], "password")
    for file in (stack.state / "secrets").glob("*"):
        text = file.read_text().strip()
        if file.suffix == ".json":
            SEEN._walk(json.loads(text))
        else:
            SEEN.add(text, file.name)
    return SEEN.tails()


@pytest.fixture(scope="module")
def control(stack, accounts):
    """The end of something that is no secret and is everywhere: the search must work."""
    with Person(stack, accounts["customer"]) as person, person.client() as client:
        return client.get("/api/v1/me").json()["id"][-TAIL:]


def live(stack, account):
    """Do what makes secrets, so that this means something without other tests too."""
    with Person(stack, account) as person:
        answer = person.sign_in()
        with stack.client() as client:
            for secret in (answer["refresh_token"], answer["refresh_token"]):
                client.post(
                    "/oauth/token",
                    data={
                        "grant_type": "refresh_token",
                        "client_id": "cli",
                        "refresh_token": secret,
                    },
                )
            client.post("/oauth/device_authorization", data={"client_id": "cli"})
            client.get("/callback", params={"code": "c" * 40, "state": "s" * 40})
            client.get("/api/v1/me", headers={"Authorization": "Bearer " + "b" * 40})
            made = client.post(
                "/api/v1/api-keys",
                json={"name": "Search", "scope": "jobs:read"},
                headers={"Authorization": f"Bearer {answer['access_token']}"},
            )
            # The reuse above has revoked the token: a key is made with another.
            if made.status_code != 201:
                with person.client() as own:
                    made = own.post(
                        "/api/v1/api-keys",
                        json={"name": "Search", "scope": "jobs:read"},
                    )
            assert made.status_code == 201, made.text
            key = made.json()["key"]
            client.get("/api/v1/jobs", headers={"Authorization": f"Bearer {key}"})
    live_as_somebody_new(stack)
    with browser(stack, account) as shop:
        shop.get("/jobs")
        shop.get("/api/v1/jobs")
        page = shop.get("/account").text
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)[1]
        shop.post(
            "/account/password",
            data={
                "csrf_token": token,
                "current_password": "a-wrong-guess-of-mine-5",
                "new_password": "another-wrong-guess-6",
            },
        )


def live_as_somebody_new(stack):
    """Register, add an app with recovery codes, and ask for a link by mail."""
    account = {
        "email": f"search{secrets.token_hex(4)}@flagon.test",
        "password": f"orchard-{secrets.token_hex(6)}-lantern",
    }
    with stack.client(follow_redirects=True) as client:

        def send(path, action=None, **typed):
            page = client.get(path).text
            token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)[1]
            answer = client.post(action or path, data={"csrf_token": token, **typed})
            assert answer.status_code == 200, (path, answer.status_code)
            return answer.text

        send("/register", name="Search", **account)
        send("/login", **account)
        send("/account/two-factor", "/account/two-factor/app")
        page = client.get("/account/two-factor/app").text
        secret = re.search(r"[?&;]secret=([A-Z2-7]+)", page)[1]
        codes = send(
            "/account/two-factor/app",
            "/account/two-factor/app/confirm",
            code=totp(secret),
        )
        assert secret in SEEN.secrets
        assert len(re.findall(r"<code>[^<]{10,}</code>", codes)) >= 8
        send("/password/forgot", email=account["email"])

        def mailed():
            mails = stack.make("mail", TO=account["email"], N="9", FORMAT="json")
            SEEN.shown(mails, "mail")
            return "/password/reset?" in mails

        until(mailed, 60, pause=2, what="the mail with the link")


def totp(secret):
    """Return the code of an authenticator app (RFC 6238)."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, struct.pack(">Q", int(time.time()) // 30), "sha1")
    start = digest[-1] & 15
    number = struct.unpack(">I", digest[start : start + 4])[0] & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"


def inside(stack, service, tails, code):
    """Search with what a service holds."""
    script = f"{FINDER}\n{_WANTED}\n{code}"
    return stack.inside(service, script, given=json.dumps(sorted(tails)))


def told(hits, tails):
    """Return what was found where, without saying the secret."""
    return {f"{tails[tail]} in {place}" for tail, place in hits.items()}


class TestAfterTheRun:
    def test_many_secrets_were_seen(self, tails):
        kinds = {where.split()[0] for where in tails.values()}

        assert len(tails) > 40
        assert {"Authorization:", "cookie", "form", "JSON", "Location", "page"} <= kinds
        assert {"page, shown", "mail, shown"} <= set(tails.values())

    def test_logs_hold_none_of_them(self, stack, tails, control):
        hits = {}
        for line in stack.logs():
            text = line if isinstance(line, str) else json.dumps(line)
            hits |= dict.fromkeys(found(text, {*tails, control}), text[:60])

        assert hits.pop(control)
        assert told(hits, tails) == set()

    def test_every_line_of_the_log_is_one_that_is_described(self, stack):
        page = (ROOT / "docs" / "events-log.md").read_text()
        described = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
        ours = [
            line
            for line in stack.logs()
            if isinstance(line, dict) and "event" in line and "logger" not in line
        ]

        assert {line["service"] for line in ours} >= {"gateway", *SERVICES}
        assert {line["event"] for line in ours} - described - _OF_LATER == set()
        assert [line for line in ours if not line.keys() >= {"time", "level"}] == []

    @pytest.mark.parametrize("service", _DATABASES)
    def test_database_holds_none_of_them(self, stack, tails, control, service):
        hits, rows = inside(stack, service, {*tails, control}, _OF_DATABASE)

        assert rows > 0
        assert hits.pop(control, None) or service != "auth"
        assert told(hits, tails) == set()

    def test_neither_redis_holds_one_of_them(self, stack, tails, control):
        wanted = {*tails, control}

        def everything_is_read():
            hits, read, unread = {}, set(), set()
            for service in SERVICES:
                seen, own, others = inside(stack, service, wanted, _OF_REDIS)
                hits |= seen
                read |= {key.split(":")[0] for key in own}
                unread |= {key.split(":")[0] for key in others}
            # Keys come and go meanwhile: those of a kind, such as `web:`, at once.
            return None if unread - read else [hits]

        [hits] = until(everything_is_read, 120, what="a look at all keys")

        assert hits.pop(control)
        assert told(hits, tails) == set()

    def test_gateway_keeps_none_of_them(self, stack, tails):
        """The exchange of sessions is cached for seconds, and then gone."""

        def clean():
            hits = found(files_of_gateway(stack), tails)
            assert told(dict.fromkeys(hits, "a file"), tails) == set()
            return True

        until(clean, 60, pause=2, what="an empty cache", ignore=AssertionError)


def files_of_gateway(stack):
    """Return everything that nginx has on its disk."""
    if stack.mode == "docker":
        # The cache's files begin with binary numbers, and the answer is read as UTF-8.
        text = "LC_ALL=C tr -c '[:print:]' ' '"
        script = f"find /var/cache/nginx -type f -exec cat {{}} + | {text}"
        out, _err, _status = stack.compose.exec_in_container(
            ["sh", "-c", script], "gateway"
        )
        return out
    done = subprocess.run(
        ["find", stack.state / "gateway", "-type", "f", "-exec", "cat", "{}", "+"],
        check=False,
        capture_output=True,
    )
    return done.stdout.decode("latin-1")
