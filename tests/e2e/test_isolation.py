"""What somebody who takes over one service cannot do to the others."""

import json

import pytest

ROWS = """
import psycopg
url = settings.database_url.get_secret_value().replace("+psycopg", "")
found = {}
for name, statement in json.loads(%r):
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            connection.execute(statement)
            found[name] = "allowed"
    except psycopg.Error as error:
        found[name] = type(error).__name__
for database in ("auth", "catalog", "worker", "postgres", "template1"):
    base, _, own = url.rpartition("/")
    if database == own:
        continue
    try:
        psycopg.connect(f"{base}/{database}", connect_timeout=5).close()
        found["connect " + database] = "allowed"
    except psycopg.Error as error:
        found["connect " + database] = str(error)
print(json.dumps(found))
"""

KEYS = """
import redis
found = {}
for place, url in (("store", settings.redis_store_url), ("cache", settings.redis_cache_url)):
    client = redis.Redis.from_url(url.get_secret_value())
    for words in json.loads(%r)[place]:
        try:
            client.execute_command(*words)
            found[place + " " + " ".join(words)] = "allowed"
        except redis.exceptions.NoPermissionError:
            found[place + " " + " ".join(words)] = "refused"
        except redis.exceptions.ResponseError as error:
            # Some are switched off for everybody.
            off = "not allowed" in str(error)
            found[place + " " + " ".join(words)] = "refused" if off else str(error)
print(json.dumps(found))
"""

OTHERS = {
    "auth": ["catalog", "worker", "realtime", "web"],
    "catalog": ["auth", "worker", "realtime", "web"],
    "realtime": ["auth", "catalog", "worker", "web"],
    "worker": ["auth", "catalog", "realtime", "web"],
    "web": ["auth", "catalog", "worker", "realtime"],
}


@pytest.mark.parametrize("service", ["auth", "catalog", "worker"])
class TestDatabase:
    def test_is_the_services_own_and_only_its_rows(self, stack, service):
        statements = [
            ["create table", "create table taken (x int)"],
            ["drop table", "drop table outbox"],
            ["alter table", "alter table outbox add column x int"],
            ["create schema", "create schema taken"],
            ["create role", "create role taken"],
            ["read files", "select pg_read_file('/etc/passwd')"],
            ["run programs", "copy (select 1) to program 'true'"],
            ["become owner", f"set role {service}_owner"],
            ["own rows", "select count(*) from outbox"],
        ]
        found = stack.inside(service, ROWS % json.dumps(statements))

        assert found.pop("own rows") == "allowed"
        reached = {k: v for k, v in found.items() if v == "allowed"}
        assert reached == {}
        refused = [v for k, v in found.items() if k.startswith("connect ")]
        assert len(refused) == 4
        assert all("permission denied" in text for text in refused), refused


class TestReader:
    def test_looks_into_the_tables_of_a_service(self, stack):
        said = stack.make("psql", S="catalog", C="select count(*) from product")

        assert "(1 row)" in said

    @pytest.mark.parametrize(
        "statement",
        [
            "delete from product",
            "set default_transaction_read_only = off; delete from product",
            "select pg_read_file('/etc/passwd')",
            "set role catalog_owner",
        ],
    )
    def test_changes_nothing(self, stack, statement):
        with pytest.raises(AssertionError, match=r"permission denied|read-only"):
            stack.make("psql", S="catalog", C=statement)

    @pytest.mark.parametrize("service", ["auth", "web"])
    def test_there_is_none_where_rows_are_secrets(self, stack, service):
        with pytest.raises(AssertionError, match="Nobody may read"):
            stack.make("psql", S=service, C="select 1")


class TestAuditLog:
    @pytest.mark.parametrize(
        ("service", "table"),
        [("auth", "audit_event"), ("catalog", "audit"), ("worker", "audit")],
    )
    def test_can_be_written_but_not_rewritten(self, stack, service, table):
        statements = [
            ["read", f"select count(*) from {table}"],
            ["change", f"update {table} set action = 'nothing'"],
            ["remove", f"delete from {table}"],
            ["empty", f"truncate {table}"],
        ]
        found = stack.inside(service, ROWS % json.dumps(statements))

        assert found["read"] == "allowed"
        assert {found[what] for what in ("change", "remove", "empty")} == {
            "InsufficientPrivilege"
        }

    def test_is_intact_after_all_that_happens_here(self, stack):
        said = stack.make("cli", S="auth", C="audit verify")

        assert json.loads(said.splitlines()[-1])["intact"] is True


@pytest.mark.parametrize("service", sorted(OTHERS))
class TestRedis:
    def test_keys_of_others_cannot_be_touched(self, stack, service):
        commands = []
        for other in OTHERS[service]:
            commands += [
                ["GET", f"{other}:x"],
                ["SET", f"{other}:x", "1"],
                ["DEL", f"{other}:x"],
                ["LPUSH", f"{other}:x", "1"],
            ]
        commands += [
            ["FLUSHALL"],
            ["CONFIG", "GET", "*"],
            ["ACL", "LIST"],
            ["KEYS", "*"],
            ["SHUTDOWN", "NOSAVE"],
            ["REPLICAOF", "127.0.0.1", "1"],
            ["DEBUG", "SLEEP", "0"],
            ["MONITOR"],
            ["DEL", "events"],
        ]
        store = list(commands)
        if service == "worker":
            store.remove(["DEL", "events"])
        if service != "auth":
            store.append(["SET", "denylist:sub:x", "1"])
        if service == "web":
            store.append(["XADD", "events", "*", "a", "b"])
        if service == "realtime":
            # It may add what trusted clients publish, and take nothing away.
            store += [
                ["XTRIM", "events", "MAXLEN", "0"],
                ["XDEL", "events", "0-1"],
                ["XSETID", "events", "0-1"],
                ["XGROUP", "CREATE", "events", "mine", "0"],
                ["SET", "events", "1"],
                ["XADD", "events:dead", "*", "a", "b"],
            ]
        cache = [*commands, ["SET", "denylist:sub:x", "1"]]
        found = stack.inside(
            service, KEYS % json.dumps({"store": store, "cache": cache})
        )

        assert {k: v for k, v in found.items() if v != "refused"} == {}


class TestOutside:
    @pytest.mark.parametrize(
        "path",
        [
            "/livez",
            "/readyz",
            "/metrics",
            "/metrics/",
            "/internal/session",
            "/internal/alerts",
            "/_session",
            "/internal",
            "/stub_status",
            "//metrics",
            "/./metrics",
            "/%6detrics",
            "/api/../metrics",
        ],
    )
    def test_what_is_inside_is_not_reachable(self, stack, path):
        with stack.client() as client:
            answer = client.get(f"{stack.url}{path}")

        assert answer.status_code in {400, 404}
        assert "# HELP" not in answer.text

    def test_a_client_cannot_bring_what_the_gateway_says(self, stack):
        with stack.client() as client:
            answer = client.get(
                "/api/v1/me",
                headers={
                    "X-Access-Token": "x",
                    "X-Original-Method": "GET",
                    "X-Forwarded-For": "127.0.0.1",
                    "X-User": "admin",
                },
            )

        assert answer.status_code == 401
