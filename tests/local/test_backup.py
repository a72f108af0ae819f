"""Backups: what is chosen, what is refused, and what the script does to real files."""

import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from flagonctl import backup, local, programs, reach
from flagonctl.backup import Base, Kept, Restore
from flagonctl.problem import Problem
from flagonctl.stack import Stack
from flagonctl.vault import Vault

from .conftest import ROOT, own_folder
from .test_postgres import serve

SCRIPT = ROOT / "deploy" / "postgres" / "backup.sh"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(hours):
    return NOON + timedelta(hours=hours)


class TestMoment:
    def test_is_in_any_zone(self):
        assert backup.moment("2026-11-21T13:00:00+01:00") == NOON
        assert backup.moment("2026-11-21T12:00:00Z") == NOON

    @pytest.mark.parametrize("text", ["", "latest"])
    def test_may_be_the_latest(self, text):
        assert backup.moment(text) is None

    def test_is_not_guessed(self):
        with pytest.raises(Problem, match="is no moment"):
            backup.moment("yesterday")
        with pytest.raises(Problem, match="Of which time zone"):
            backup.moment("2026-11-21T12:00:00")


class TestChoose:
    kept = Kept([Base("a", at(0)), Base("b", at(2)), Base("c", at(4))], [])

    def chosen(self, moment, kept=None):
        return backup.choose(kept or self.kept, moment, at(6)).name

    def test_takes_the_newest_that_was_whole_by_then(self):
        assert self.chosen(None) == "c"
        assert self.chosen(at(5)) == "c"
        assert self.chosen(at(4)) == "c"
        assert self.chosen(at(3)) == "b"
        assert self.chosen(at(0)) == "a"

    def test_needs_one(self):
        with pytest.raises(Problem, match="There is no backup yet") as caught:
            self.chosen(None, Kept([], []))

        assert caught.value.next_step == "make backup"

    def test_refuses_what_is_before_the_first(self):
        with pytest.raises(Problem, match="before the first backup") as caught:
            self.chosen(at(-1))

        assert caught.value.next_step == "make restore AT=2026-11-21T12:00:00Z"

    def test_refuses_the_future(self):
        with pytest.raises(Problem, match="in the future"):
            self.chosen(at(7))

    def test_refuses_a_history_that_was_left(self):
        bases = [Base("a", at(0)), Base("b", at(2), left=True), Base("c", at(4))]
        kept = Kept(bases, [Restore(at(1), at(3))])

        assert self.chosen(at(1), kept) == "a"
        with pytest.raises(Problem, match="in a history that was left"):
            self.chosen(at(2), kept)
        assert self.chosen(at(3.5), kept) == "a"
        assert self.chosen(None, kept) == "c"


class TestRestore:
    def test_says_that_there_is_nothing_at_all(self, tmp_path):
        stack = Stack("local", 24_000, tmp_path)

        with pytest.raises(Problem, match="no backup of it"):
            backup.restore(stack, "")

        assert not stack.state.exists()


class Files:
    """The script on folders of a test."""

    def __init__(self, folder, server=None):
        self.folder = folder
        self.who = reach.runner()
        postgres = programs.postgres_for(folder / "data").folder
        self.environment = {
            "PATH": f"{postgres}:/usr/bin:/bin",
            "BACKUPS": str(folder / "backups"),
            "DATA": str(folder / "data"),
            "CONFIG": str(ROOT / "deploy/postgres/postgresql.conf"),
            "SECRETS_DIR": str(folder / "secrets"),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server or 1),
        }

    def run(self, *words):
        return subprocess.run(
            ["/bin/sh", SCRIPT, *words],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment,
            **self.who.options,
        )


@pytest.fixture
def files():
    with own_folder(0o755) as folder:
        (folder / "segment").write_bytes(b"log" * 1000)
        found = Files(folder)
        reach.give(folder, found.who)
        yield found


class TestArchive:
    def test_keeps_nothing_before_the_first_backup(self, files):
        assert files.run("archive", "segment", "0001").returncode == 0

        assert not (files.folder / "backups").exists()

    def test_keeps_a_file_once_and_gives_it_back(self, files):
        (files.folder / "backups" / "base").mkdir(parents=True)
        reach.give(files.folder, files.who)

        # Twice: Postgres may not have heard of the first success.
        for _ in range(2):
            assert files.run("archive", "segment", "0001").returncode == 0

        assert files.run("fetch", "0001", "back").returncode == 0
        assert (files.folder / "back").read_bytes() == b"log" * 1000
        kept = list((files.folder / "backups" / "wal").iterdir())
        assert [path.name for path in kept] == ["0001.gz"]

    def test_never_replaces_what_it_has(self, files):
        (files.folder / "backups" / "base").mkdir(parents=True)
        (files.folder / "other").write_bytes(b"of another history")
        reach.give(files.folder, files.who)
        files.run("archive", "segment", "0001")

        said = files.run("archive", "other", "0001")

        assert said.returncode != 0
        assert "with other content" in said.stderr
        files.run("fetch", "0001", "back")
        assert (files.folder / "back").read_bytes() == b"log" * 1000

    def test_says_that_it_does_not_have_a_file(self, files):
        assert files.run("fetch", "0002", "back").returncode != 0
        assert not (files.folder / "back").exists()


class TestRoom:
    def test_says_what_is_missing_on_a_full_disk(self, files):
        said = files.run("needs_room", ".", str(10**12))

        assert said.returncode != 0
        assert "is full" in said.stderr
        assert f"{10**12 // 1024} MB are needed" in said.stderr


class TestPrune:
    def test_lets_go_of_left_histories_first(self, files):
        base = files.folder / "backups" / "base"
        for name, left in (("1", False), ("2", True), ("3", False), ("4", False)):
            (base / name / "flagon").mkdir(parents=True)
            (base / name / "backup_label").write_text(
                f"START WAL LOCATION: 0/{name}000028"
                f" (file 00000001000000000000000{name})\n"
            )
            if left:
                (base / name / "flagon" / "left_at").touch()
        wal = files.folder / "backups" / "wal"
        wal.mkdir()
        for number in range(6):
            (wal / f"00000001000000000000000{number}.gz").touch()
        reach.give(files.folder, files.who)

        assert files.run("prune", "3").returncode == 0
        assert sorted(path.name for path in base.iterdir()) == ["1", "3", "4"]
        assert len(list(wal.iterdir())) == 5

        assert files.run("prune", "1").returncode == 0
        assert [path.name for path in base.iterdir()] == ["4"]
        assert sorted(path.name[-4:] for path in wal.iterdir()) == ["4.gz", "5.gz"]


class TestLostData:
    def test_is_not_replaced_by_an_empty_shop(self, tmp_path):
        stack = Stack("local", 24_000, tmp_path)
        (stack.state / "backups" / "base" / "20261121T120000.000000Z").mkdir(
            parents=True
        )
        keeper = Vault(stack.secrets)
        who = reach.runner()

        with pytest.raises(Problem, match="is gone") as caught:
            local._init_postgres(stack, keeper, who, local.Clock())

        assert caught.value.next_step.startswith("make restore")
        assert not (stack.state / "postgres").exists()


@pytest.fixture(scope="module")
def copied():
    """A server with a table, and a base backup of it."""
    with own_folder(0o755) as folder:
        running = serve(folder)
        connect = next(running)
        with connect("postgres", "postgres") as administrator:
            files = Files(folder, administrator.info.port)
            archive = f"BACKUPS={folder}/backups sh {SCRIPT} archive %p %f"
            administrator.execute(f"alter system set archive_command = '{archive}'")
            administrator.execute("select pg_reload_conf()")
        for name in ("auth", "catalog", "worker"):
            with connect(f"{name}_owner", name) as owner:
                owner.execute(
                    "create table outbox (number int, channel text, sent_at timestamptz)"
                )
        said = files.run("base", "first", "3")
        assert said.returncode == 0, said.stderr
        yield files, connect
        next(running, None)


class TestRecovery:
    def last_commit(self, said):
        assert said.returncode == 0, said.stderr
        length, _, at = said.stdout.strip().partition(" ")
        return length, datetime.fromisoformat(at)

    def test_is_of_all_there_is_when_the_log_ends_before_the_moment(self, copied):
        files, connect = copied
        with connect("catalog", "catalog") as catalog:
            catalog.execute("insert into outbox values (1, 'event', now())")
            noted = catalog.execute("select clock_timestamp()").fetchone()[0]
        assert files.run("flush").returncode == 0

        future = (noted + timedelta(days=1)).isoformat().replace("+00:00", "Z")
        length, reached = self.last_commit(files.run("recover", "first", future))

        assert length == "short"
        assert reached > noted  # the commit that `flush` makes
        assert reached < noted + timedelta(hours=1)

    def test_ends_at_the_moment(self, copied):
        files, connect = copied
        with connect("catalog", "catalog") as catalog:
            catalog.execute("insert into outbox values (2, 'event', now())")
            noted = catalog.execute("select clock_timestamp()").fetchone()[0]
            catalog.execute("insert into outbox values (3, 'event', now())")
        assert files.run("flush").returncode == 0

        text = noted.isoformat().replace("+00:00", "Z")
        length, reached = self.last_commit(files.run("recover", "first", text))

        assert length == "whole"
        assert reached <= noted

    def test_does_not_begin_with_a_damaged_copy(self, copied):
        files, _connect = copied
        assert files.run("base", "second", "3").returncode == 0
        damaged = next((files.folder / "backups/base/second/global").glob("[0-9]*"))
        content = bytearray(damaged.read_bytes())
        content[100] ^= 1
        damaged.write_bytes(content)

        said = files.run("recover", "second")

        assert said.returncode != 0
        assert "checksum mismatch" in said.stderr
