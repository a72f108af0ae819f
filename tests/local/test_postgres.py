"""Database roles: what each login may do, made by the script that both modes run."""

import subprocess
from contextlib import ExitStack

import psycopg
import pytest
from flagonctl import environment, programs, reach
from flagonctl.problem import Problem
from flagonctl.processes import SERVICES
from flagonctl.stack import Stack
from flagonctl.vault import Vault

from .conftest import ROOT, free_port, own_folder, wait_for


@pytest.fixture(scope="module")
def server():
    # Postgres refuses to run as root, so its user must be able to enter.
    with own_folder(0o755) as folder:
        yield from serve(folder)


def serve(folder):
    vault = Vault(folder / "secrets")
    vault.fill()
    postgres = programs.postgres_for(folder / "data")
    who = reach.runner()
    reach.give(folder, who)
    run = {"cwd": folder, "stdout": subprocess.DEVNULL, **who.options}
    subprocess.run(
        [
            postgres.program("initdb"),
            *(f"--pgdata={folder / 'data'}", "--username=postgres", "--no-sync"),
            f"--pwfile={folder / 'secrets' / 'postgres_password'}",
            "--auth=scram-sha-256",
        ],
        check=True,
        **run,
    )
    port = free_port()
    process = subprocess.Popen(
        [
            postgres.program("postgres"),
            *("-D", folder / "data", "-c", f"port={port}"),
            *("-c", f"config_file={ROOT / 'deploy/postgres/postgresql.conf'}"),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
            *("-c", "fsync=off"),
        ],
        cwd=folder,
        stderr=subprocess.DEVNULL,
        **who.options,
    )
    ready = [postgres.program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    wait_for(lambda: subprocess.run(ready, check=False).returncode == 0)
    environment = {
        "PATH": f"{postgres.folder}:/usr/bin:/bin",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": "postgres",
        "PGPASSWORD": vault["postgres_password"],
        "SECRETS_DIR": str(folder / "secrets"),
    }
    script = ["/bin/sh", ROOT / "deploy" / "postgres" / "roles.sh"]
    # Twice: it runs at every start.
    for _ in range(2):
        subprocess.run(script, check=True, env=environment)

    def connect(user, database):
        name = (
            f"{user}_postgres_password" if user != "postgres" else "postgres_password"
        )
        return psycopg.connect(
            host="127.0.0.1",
            port=port,
            user=user,
            password=vault[name],
            dbname=database,
            autocommit=True,
        )

    yield connect
    process.terminate()
    process.wait(60)


@pytest.fixture
def table(server):
    with server("auth_owner", "auth") as owner:
        owner.execute("create table account (id int primary key)")
        yield
        owner.execute("drop table account")


class TestRoles:
    def test_catalog_cannot_read_tables_of_auth(self, server, table):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            server("catalog", "auth")

    @pytest.mark.parametrize("database", ["auth", "worker", "postgres", "template1"])
    def test_catalog_sees_its_own_database_only(self, server, database):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            server("catalog", database)

    def test_a_service_may_change_rows(self, server, table):
        with server("auth", "auth") as mine:
            mine.execute("insert into account values (1)")
            mine.execute("update account set id = 2")
            assert mine.execute("delete from account returning id").fetchone() == (2,)

    @pytest.mark.parametrize(
        "statement",
        [
            "create table other (id int)",
            "drop table account",
            "alter table account add column x int",
            "truncate account",
            "create schema mine",
            "create role friend",
            "create database mine",
            "set role auth_owner",
            "copy account to '/tmp/stolen'",
            "create extension dblink",
        ],
    )
    def test_a_service_may_change_nothing_else(self, server, table, statement):
        with server("auth", "auth") as mine, pytest.raises(psycopg.Error):
            mine.execute(statement)

    def test_an_owner_is_not_more_than_that(self, server):
        with (
            server("auth_owner", "auth") as owner,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            owner.execute("create role friend")


# What a reader might try, each in a way that its settings do not already forbid.
WRITES = [
    "insert into product values (2)",
    "update product set id = 3",
    "delete from product",
    "truncate product",
    "merge into product using product as p on false when matched then delete",
    "create table other (id int)",
    "create table other as select * from product",
    "create temp table other (id int)",
    "create view other as select * from product",
    "create function other() returns int language sql return 1",
    "create schema mine",
    "create role friend",
    "create database mine",
    "create extension dblink",
    "alter table product add column x int",
    "drop table product",
    "comment on table product is 'mine'",
    "select nextval('product_number')",
    "select setval('product_number', 7)",
    "select from product for update",
    "select from product for key share",
    "begin; lock table product in row exclusive mode",
    "begin; lock table product in access exclusive mode",
    "set role catalog",
    "set role catalog_owner",
    "set session authorization catalog",
    "copy product to '/tmp/stolen'",
    "copy product from '/etc/passwd'",
    "copy (select 1) to program 'true'",
    "select pg_read_file('/etc/passwd')",
    "select pg_ls_dir('/')",
    "select lo_create(0)",
    "select lo_from_bytea(0, 'x')",
    "select lo_creat(-1)",
    "select lo_import('/etc/passwd')",
    "select * from pg_authid",
    "select pg_reload_conf()",
    "alter system set fsync = off",
    "alter role catalog_reader superuser",
    "alter role catalog_reader connection limit -1",
    "alter default privileges for role catalog_owner grant all on tables to public",
    "do $$ begin insert into product values (2); end $$",
]


class TestReader:
    @pytest.fixture
    def product(self, server):
        with server("catalog_owner", "catalog") as owner:
            owner.execute("create table product (id int primary key)")
            owner.execute("create sequence product_number")
            owner.execute("insert into product values (1)")
            yield
            owner.execute("drop table product")
            owner.execute("drop sequence product_number")

    def test_reads_tables_of_later_migrations(self, server, product):
        with server("catalog_reader", "catalog") as reader:
            assert reader.execute("select id from product").fetchall() == [(1,)]

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("default_transaction_read_only", "on"),
            ("statement_timeout", "10s"),
            ("lock_timeout", "1s"),
            ("idle_in_transaction_session_timeout", "30s"),
        ],
    )
    def test_is_in_nobodys_way(self, server, setting, value):
        with server("catalog_reader", "catalog") as reader:
            assert reader.execute(f"show {setting}").fetchone() == (value,)

    def test_cannot_write_by_accident(self, server, product):
        with (
            server("catalog_reader", "catalog") as reader,
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        ):
            reader.execute("delete from product")

    @pytest.mark.parametrize("statement", WRITES)
    def test_cannot_write_on_purpose(self, server, product, statement):
        with server("catalog_reader", "catalog") as reader:
            # It may say so; that it has no right to is what holds.
            reader.execute("set default_transaction_read_only = off")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)

        with server("postgres", "catalog") as admin:
            assert admin.execute("select id from product").fetchall() == [(1,)]

    def test_has_few_connections(self, server):
        with ExitStack() as open_ones:
            for _ in range(5):
                open_ones.enter_context(server("catalog_reader", "catalog"))
            with pytest.raises(psycopg.OperationalError, match="too many connections"):
                server("catalog_reader", "catalog")

    @pytest.mark.parametrize(
        ("reader", "database"),
        [
            *(("catalog_reader", name) for name in ("auth", "worker", "postgres")),
            *(("worker_reader", name) for name in ("auth", "catalog", "template1")),
        ],
    )
    def test_sees_its_own_database_only(self, server, reader, database):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            server(reader, database)

    def test_of_auth_there_is_none(self, server):
        with server("postgres", "postgres") as admin:
            found = admin.execute(
                "select rolname from pg_roles where rolname like '%reader'"
            ).fetchall()
        assert sorted(found) == [("catalog_reader",), ("worker_reader",)]


class TestMonitor:
    def test_sees_the_figures_of_all_databases(self, server):
        with server("monitor", "postgres") as monitor:
            found = monitor.execute(
                "select pg_database_size('auth') > 0, count(*) > 0 from pg_stat_activity"
            ).fetchone()
        assert found == (True, True)

    def test_reads_no_row_of_anybody(self, server):
        for database in ("auth", "catalog", "worker"):
            with pytest.raises(psycopg.OperationalError, match="permission denied"):
                server("monitor", database)

    def test_changes_nothing(self, server):
        with server("monitor", "postgres") as monitor:
            monitor.execute("set default_transaction_read_only = off")
            for statement in (
                "create table mine (id int)",
                "alter role monitor superuser",
                "select pg_read_file('/etc/passwd')",
                "copy (select 1) to program 'id'",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    monitor.execute(statement)

    def test_has_few_connections(self, server):
        with ExitStack() as open_ones:
            for _ in range(3):
                open_ones.enter_context(server("monitor", "postgres"))
            with pytest.raises(psycopg.OperationalError, match="too many connections"):
                server("monitor", "postgres")


class TestVersions:
    def test_data_of_another_version_is_named(self, tmp_path):
        (tmp_path / "PG_VERSION").write_text("9\n")

        with pytest.raises(Problem, match="made by Postgres 9") as failure:
            programs.postgres_for(tmp_path)

        assert "postgresql-9" in failure.value.next_step


class TestBackup:
    @pytest.mark.parametrize("database", ["auth", "catalog", "worker", "postgres"])
    def test_logs_in_to_no_database(self, server, database):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            server("backup", database)

    def test_is_no_more_than_a_copier(self, server):
        with server("postgres", "postgres") as administrator:
            found = administrator.execute(
                "select rolreplication, rolsuper, rolcreaterole, rolcreatedb,"
                " rolbypassrls, rolconnlimit from pg_roles where rolname = 'backup'"
            ).fetchone()
            copiers = administrator.execute(
                "select rolname from pg_roles where rolreplication and not rolsuper"
            ).fetchall()
        assert found == (True, False, False, False, False, 2)
        assert copiers == [("backup",)]

    def test_no_process_knows_its_password(self, tmp_path):
        stack = Stack("docker", 24_000, tmp_path)
        keeper = Vault(tmp_path / "secrets")
        keeper.fill()
        known = [
            value
            for service in SERVICES
            for value in environment.confidential(service, stack, keeper).values()
        ]
        assert not any(keeper["backup_postgres_password"] in value for value in known)
