import json

import psycopg
import pytest
from flask import Flask
from sqlalchemy import NullPool, create_engine, select
from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from flagon_chassis import db, events, tables, tracing

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SCHEMA = {
    "type": "object",
    "required": ["id", "changed"],
    "properties": {"id": {"type": "string"}, "at": {"format": "date-time"}},
}


@pytest.fixture
def app(tmp_path):
    (tmp_path / "thing.changed.v1.json").write_text(json.dumps(SCHEMA))
    app = Flask("things")
    events.init_app(app, "/services/things", tmp_path)
    with app.app_context():
        yield app


@pytest.fixture
def emit(app, session):
    def emit(type_="thing.changed.v1", **data):
        events.emit(
            session,
            type_,
            subject="7",
            data={"id": "7", "changed": ["name"]} | data,
            topics=["things", "things/7"],
        )
        return session.execute(select(tables.outbox)).all()[-1]

    return emit


class TestEmit:
    def test_writes_a_cloud_event_to_the_outbox(self, emit):
        row = emit()

        assert (row.channel, row.name) == ("event", "market.flagon.thing.changed.v1")
        assert row.subject == "7"
        assert (
            row.body.items()
            >= {
                "specversion": "1.0",
                "id": str(row.id),
                "source": "/services/things",
                "type": "market.flagon.thing.changed.v1",
                "subject": "7",
                "datacontenttype": "application/json",
                "data": {"id": "7", "changed": ["name"]},
                "topics": ["things", "things/7"],
            }.items()
        )
        assert row.body["time"].endswith("Z")
        assert row.sent_at is None

    def test_ties_the_event_to_its_request_and_trace(self, emit):
        with (
            bound_contextvars(request_id="request-1"),
            tracing.continue_from(TRACEPARENT, "test"),
        ):
            row = emit()

        assert row.headers == {"traceparent": TRACEPARENT, "request_id": "request-1"}
        assert row.body["traceparent"] == TRACEPARENT

    def test_works_without_either(self, emit):
        row = emit()

        assert row.headers == {}
        assert "traceparent" not in row.body

    def test_wakes_the_relay_when_the_change_is_committed(
        self, app, database_url, rows, make_settings
    ):
        db.init_app(app, make_settings(database_url=database_url))
        rows.execute("listen outbox")
        with db.transaction() as session:
            events.emit(
                session,
                "thing.changed.v1",
                subject="7",
                data={"id": "7", "changed": []},
                topics=[],
            )

        assert len(list(rows.notifies(timeout=5, stop_after=1))) == 1
        app.extensions["flagon.sessions"].kw["bind"].dispose()

    @pytest.mark.parametrize(
        ("wrong", "where"), [({"id": 7}, "/id"), ({"at": "noon"}, "/at")]
    )
    def test_refuses_data_that_breaks_the_schema(self, emit, wrong, where):
        with pytest.raises(events.EventInvalid, match=where):
            emit(**wrong)

    def test_refuses_a_type_without_a_schema(self, emit):
        with pytest.raises(events.EventInvalid, match="no schema"):
            emit("thing.unheard.v1")

    @pytest.mark.parametrize("count", [1, 3, 9])
    def test_wakes_the_relay_when_it_is_committed(self, app, database_url, count):
        event = ("thing.changed.v1", "7", {"id": "7", "changed": ["name"]}, ["things"])
        engine = create_engine(database_url, poolclass=NullPool)
        url = database_url.replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as relay:
            relay.execute("listen outbox")
            with Session(engine) as session:
                events.emit_many(session, [event] * count)
                assert not list(relay.notifies(timeout=0))
                session.commit()

            woken = next(relay.notifies(timeout=10, stop_after=1))
            gone = relay.execute("delete from outbox where subject = '7'")

        assert woken.channel == "outbox"
        assert gone.rowcount == count

    def test_no_events_are_no_rows(self, app, session):
        events.emit_many(session, [])

        assert session.execute(select(tables.outbox)).all() == []


class TestEmitTask:
    def test_writes_a_task_to_the_outbox(self, app, session):
        events.emit_task(session, "things.do", queue="bulk", subject="7", number=1)

        row = session.execute(select(tables.outbox)).one()
        assert (row.channel, row.name, row.subject) == ("task", "things.do", "7")
        assert row.body == {"queue": "bulk", "kwargs": {"number": 1}}
