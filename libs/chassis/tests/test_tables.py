"""Tables that every owner has, and what an owner's migration can do with its own."""

from uuid import uuid4

import pytest
from sqlalchemy import create_engine, exc, text

from flagon_chassis import tables


@pytest.fixture
def engine(make_database):
    engine = create_engine(make_database())
    yield engine
    engine.dispose()


class TestAppendOnly:
    def test_leaves_reading_and_adding(self, engine):
        # A name that only works in quotation marks.
        role, everybody = f'"Log {uuid4().hex[:12]}"', "public"
        with engine.begin() as owner:
            owner.execute(text(f"create role {role}"))
            owner.execute(text('create table "the log" (line text)'))
            owner.execute(text("create table other (line text)"))
            for name in ('"the log"', "other"):
                owner.execute(text(f"grant all on {name} to {role}, {everybody}"))

            tables.append_only(owner, "the log")

        def run(statement):
            with engine.begin() as connection:
                connection.execute(text(f"set local role {role}"))
                connection.execute(text(statement))

        run("""insert into "the log" values ('a')""")
        run('select * from "the log"')
        run("delete from other")
        for attack in ('update "the log" set line = 1', 'delete from "the log"'):
            with pytest.raises(exc.ProgrammingError, match="permission denied"):
                run(attack)
        with pytest.raises(exc.ProgrammingError, match="permission denied"):
            run('truncate "the log"')
        with engine.begin() as owner:
            owner.execute(text('delete from "the log"'))
            owner.execute(text(f"drop owned by {role}"))
            owner.execute(text(f"drop role {role}"))
