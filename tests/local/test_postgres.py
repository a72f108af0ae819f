"""Database roles: what each login may do, made by the script that both modes run."""

import subprocess

import psycopg
import pytest
from flagonctl import programs, reach
from flagonctl.problem import Problem
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


class TestVersions:
    def test_data_of_another_version_is_named(self, tmp_path):
        (tmp_path / "PG_VERSION").write_text("9\n")

        with pytest.raises(Problem, match="made by Postgres 9") as failure:
            programs.postgres_for(tmp_path)

        assert "postgresql-9" in failure.value.next_step
