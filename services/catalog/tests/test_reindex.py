"""The words of searches, made anew while everybody goes on."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert, select
from sqlalchemy import text as sql

from flagon_catalog.domain import words
from flagon_catalog.models import Product, word

from .conftest import PRODUCTS

LEARN, FORGET = "/internal/words/learn", "/internal/words/forget"


@pytest.fixture
def go(client, merchandiser):
    """Take step after step to the end; return how many were looked at and written."""

    def go(path, **given):
        looked_at = written = 0
        after = given.pop("after", None)
        while True:
            body = {**given, **({"after": after} if after is not None else {})}
            answer = client.post(path, json=body, headers=merchandiser)
            assert answer.status_code == 200, answer.text
            looked_at += answer.json["looked_at"]
            written += answer.json["written"]
            after = answer.json["after"]
            if after is None:
                return looked_at, written

    return go


@pytest.fixture
def known(session):
    """Return which words are there, in order, as often as they are."""
    return lambda: session.scalars(select(word.c.text).order_by(word.c.text)).all()


class TestLearnWords:
    def test_brings_back_all_words(self, session, go, make, known, monkeypatch):
        monkeypatch.setattr(words, "_PRODUCTS", 2)
        for name in ("Quokka", "Wombat", "Numbat", "Bilby", "Quoll"):
            make(name=name)
        before = known()
        session.execute(delete(word))

        looked_at, written = go(LEARN)

        assert looked_at >= 5
        assert {"quokka", "wombat", "numbat", "bilby", "quoll"} <= set(known())
        assert set(known()) <= set(before)
        assert written == len(known())
        assert go(LEARN)[1] == 0

    def test_of_what_was_written_lately_alone(self, session, go, make, known):
        old, new = make(name="Quokka"), make(name="Wombat")
        at = datetime.now(UTC)
        for made, age in ((old, 600), (new, 60)):
            session.execute(
                sql("update product set updated_at = :at where id = :id"),
                {"id": made["id"], "at": at - timedelta(seconds=age)},
            )
        session.execute(delete(word))

        go(LEARN, since=at.isoformat())

        assert "wombat" in known()
        assert "quokka" not in known()

    def test_of_nothing_ends_at_once(self, client, merchandiser):
        last = {"after": "ffffffff-ffff-ffff-ffff-ffffffffffff"}

        answer = client.post(LEARN, json=last, headers=merchandiser)

        assert answer.json.items() >= {"after": None, "looked_at": 0}.items()
        assert datetime.fromisoformat(answer.json["at"]).tzinfo


class TestForgetWords:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch):
        monkeypatch.setattr(words, "_WORDS", 3)

    def test_takes_out_what_no_product_has(self, session, go, make, known):
        make(name="Quokka and Wombat")
        make(name="Numbat", status="draft")
        dead = [f"dead{letter}" for letter in "abcdefgh"]
        session.execute(insert(word), [{"text": each} for each in dead])

        go(FORGET)

        assert not set(dead) & set(known())
        assert {"quokka", "wombat", "numbat"} <= set(known())
        assert go(FORGET)[1] == 0

    def test_leaves_one_of_each(self, session, go, make, known):
        make(name="Quokka")
        session.execute(insert(word), [{"text": "quokka"}] * 3)

        assert go(FORGET)[1] >= 3

        assert known().count("quokka") == 1

    def test_keeps_what_a_search_leaves_out(self, session, go, known):
        session.execute(insert(word).values(text="the"))

        go(FORGET)

        assert "the" in known()

    def test_changes_no_search(self, session, client, go, make):
        make(name="Quokka", attributes={"by": "Zafón"})
        session.execute(insert(word), [{"text": "quokkx"}, {"text": "gone"}])

        go(LEARN)
        go(FORGET)

        for slip, meant in (("quoka", "quokka"), ("zafno", "zafon")):
            page = client.get(PRODUCTS, query_string={"q": slip}).json
            assert page["corrected"] == meant

    def test_that_crosses_a_write_is_healed(self, real_sessions):
        """A product brings a word that is known, and about to go."""
        fresh = f"zz{uuid4().hex}".translate(str.maketrans("0123456789", "ghijklmnop"))
        with real_sessions.begin() as session:
            session.execute(insert(word).values(text=fresh))
        with real_sessions() as writer, real_sessions() as keeper:
            before = words.learn_some(keeper, after=None, since=None)
            keeper.commit()
            writer.execute(
                insert(Product).values(
                    id=uuid4(),
                    sku=fresh[:30],
                    slug=fresh[:30],
                    name=fresh,
                    price_minor=1,
                    currency="EUR",
                    status="active",
                    stock=0,
                    attributes={},
                    description="",
                )
            )
            writer.execute(words.LEARN, {"words": [fresh]})
            gone = words.forget_some(keeper, after=fresh[:-1])
            assert gone.written >= 1
            keeper.commit()
            writer.commit()
            there = select(word.c.text).where(word.c.text == fresh)
            assert keeper.scalars(there).all() == []
            after = None
            while True:
                step = words.learn_some(keeper, after=after, since=before.at)
                after = step.after
                if after is None:
                    break
            assert keeper.scalars(there).all() == [fresh]


class TestWords:
    @pytest.mark.parametrize("path", [LEARN, FORGET])
    def test_are_for_who_may_change_the_catalog(self, client, bearer, path):
        assert client.post(path, json={}).status_code == 401
        reader = bearer("catalog:read")
        assert client.post(path, json={}, headers=reader).status_code == 403

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (LEARN, {"after": "'; delete from word; --"}),
            (LEARN, {"since": "yesterday"}),
            (LEARN, {"since": "2026-11-21T00:00:00"}),
            (FORGET, {"after": 7}),
            (FORGET, {"after": "x" * 201}),
            (FORGET, {"all": True}),
        ],
    )
    def test_refuse_what_makes_no_sense(self, client, merchandiser, path, body):
        assert client.post(path, json=body, headers=merchandiser).status_code == 422
