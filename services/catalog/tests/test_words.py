"""Searches with a slip of the pen."""

import random
import string
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from alembic import command
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, select
from sqlalchemy import text as sql

from flagon_catalog.__main__ import MIGRATIONS
from flagon_catalog.domain import words
from flagon_catalog.models import word
from flagon_chassis import db

from .conftest import PRODUCTS

BULK = f"{PRODUCTS}/bulk"
POTTER = {
    "name": "Harry Potter and the Chamber of Secrets",
    "attributes": {"author": "J. K. Rowling"},
}
HOBBIT = {"name": "The Hobbit", "attributes": {"authors": ["J. R. R. Tolkien"]}}


@pytest.fixture
def search(client):
    """Search and return the page."""

    def search(q, headers=None, **more):
        answer = client.get(PRODUCTS, query_string={"q": q, **more}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json

    return search


def names(page):
    return [item["name"] for item in page["items"]]


@contextmanager
def counted(session):
    """Collect the statements that are sent meanwhile."""
    found = []

    def note(_connection, _cursor, statement, *_more):
        found.append(statement)

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(connection, "before_cursor_execute", note)


class TestSearchProducts:
    @pytest.mark.parametrize(
        ("q", "corrected"),
        [
            ("harry poter", "harry potter"),
            ("HARY POTTER", "harry potter"),
            ("tolkein", "tolkien"),
            ("Rowlnig", "rowling"),
            ('"chamber of secerts"', '"chamber of secrets"'),
            ("poter -hobbit", "potter -hobbit"),
            ("xyzzyx or hobit", "xyzzyx or hobbit"),
        ],
    )
    def test_finds_what_was_meant_and_says_so(self, make, search, q, corrected):
        make(**POTTER)
        make(**HOBBIT)

        page = search(q)

        assert len(page["items"]) == 1
        assert page["corrected"] == corrected
        # Searched for by itself it finds the same.
        again = search(corrected)
        assert again["items"] == page["items"]
        assert "corrected" not in again

    def test_leaves_alone_what_finds_something(self, make, search):
        make(name="Poter")
        make(name="Potter")

        page = search("poter")

        assert names(page) == ["Poter"]
        assert "corrected" not in page

    @pytest.mark.parametrize(
        "q",
        [
            # Every word is there, together they are not.
            "hobbit potter",
            # Nothing is near.
            "xyzzyxyz",
            # Something is near only one of two.
            "hobit xyzzyxyz",
            # There is no telling which number was meant.
            "r2d3 potter",
            # What is excluded is not looked for.
            "-poter -hobit",
            "!!! ???",
        ],
    )
    def test_says_nothing_where_nothing_helps(self, make, search, q):
        make(**POTTER)
        make(**HOBBIT)

        page = search(q)

        if not q.startswith("-"):
            assert page["items"] == []
        assert "corrected" not in page

    def test_searches_for_the_very_words_where_asked_to(self, make, search):
        make(**HOBBIT)

        page = search("hobit", exact="true")

        assert page["items"] == []
        assert "corrected" not in page

    def test_keeps_the_other_filters(self, make, search, make_category):
        shelf, other = make_category(), make_category()
        make(**HOBBIT, category=shelf["slug"], price_minor=100)

        assert search("hobit", category=shelf["slug"])["corrected"] == "hobbit"
        assert "corrected" not in search("hobit", category=other["slug"])
        assert "corrected" not in search("hobit", price_minor_min=101)

    def test_counts_and_marks_what_it_found(self, make, search):
        made = make(**HOBBIT)

        page = search("hobit", facets="status", highlight="true")

        assert page["facets"]["status"] == [{"value": "active", "count": 1}]
        shown = page["highlights"][made["id"]]
        assert shown["name"] == "The <mark>Hobbit</mark>"

    @pytest.mark.parametrize("sort", ["relevance", "name", "-created_at"])
    def test_goes_on_page_by_page(self, make, search, sort):
        made = {make(name=f"Hobbit {number}")["id"] for number in range(5)}

        seen, cursor = [], None
        while True:
            more = {"cursor": cursor} if cursor else {}
            page = search("hobit", sort=sort, limit=2, **more)
            assert page["corrected"] == "hobbit"
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break

        assert len(seen) == 5
        assert set(seen) == made

    def test_finds_accents_that_were_left_out_or_put_elsewhere(self, make, search):
        make(name="La sombra", attributes={"author": "Carlos Ruiz Zafón"})

        for q in ("zafno", "zàfonn", "Záfom"):
            assert search(q)["corrected"] == "zafon"

    def test_takes_the_fewest_slips(self, make, search):
        make(name="Mug")
        make(name="Muslin")

        assert search("muslni")["corrected"] == "muslin"

    def test_does_not_tell_what_is_not_for_sale(self, make, search, merchandiser):
        make(name="Skunkworks", status="draft")

        page = search("skunkwroks")

        assert page["items"] == []
        assert "corrected" not in page
        assert "corrected" not in search("skunkwroks", merchandiser)
        seen = search("skunkwroks", merchandiser, status="any")
        assert seen["corrected"] == "skunkworks"

    def test_prefers_a_word_that_is_for_sale(self, make, search):
        make(name="Lanterm", status="draft")
        make(name="Lantern")

        assert search("lanterk")["corrected"] == "lantern"

    def test_forgets_words_of_products_that_are_gone(
        self, client, make, search, merchandiser
    ):
        made = make(**HOBBIT)
        match = {**merchandiser, "If-Match": made["etag"]}
        gone = client.delete(f"{PRODUCTS}/{made['id']}", headers=match)
        assert gone.status_code == 204

        assert "corrected" not in search("hobit")

    def test_is_no_part_of_an_export(self, client, merchandiser):
        answer = client.get(f"{PRODUCTS}/export?exact=true", headers=merchandiser)

        assert answer.status_code == 422

    def test_is_the_same_in_other_formats(self, client, make):
        make(**HOBBIT)

        answer = client.get(PRODUCTS, query_string={"q": "hobit", "format": "csv"})

        assert "The Hobbit" in answer.text

    def test_works_in_graphql(self, client, make):
        make(**HOBBIT)
        query = """query ($exact: Boolean!) {
            products(q: "hobit", exact: $exact) { corrected nodes { name } }
        }"""

        told, exact = (
            client.post(
                "/api/v1/graphql", json={"query": query, "variables": {"exact": exact}}
            ).json["data"]["products"]
            for exact in (False, True)
        )

        assert told == {"corrected": "hobbit", "nodes": [{"name": "The Hobbit"}]}
        assert exact == {"corrected": None, "nodes": []}


class TestKeptAnswers:
    def test_know_a_word_as_soon_as_its_product_is_there(
        self, migrated, make_app, merchandiser, new_product
    ):
        client = make_app(migrated(), answer_seconds=30).test_client()
        asked = {"q": "hobit"}

        before = client.get(PRODUCTS, query_string=asked).json
        client.post(PRODUCTS, json=new_product(**HOBBIT), headers=merchandiser)
        after = [client.get(PRODUCTS, query_string=asked).json for _ in range(2)]

        assert before["items"] == []
        assert [page["corrected"] for page in after] == ["hobbit"] * 2


class TestLearn:
    def test_knows_the_words_of_every_way_to_write(
        self, client, make, search, new_product, merchandiser
    ):
        made = make(name="Alphabetic")
        path = f"{PRODUCTS}/{made['id']}"
        changed = client.patch(
            path,
            json={"name": "Betweenness"},
            headers={**merchandiser, "If-Match": made["etag"]},
        )
        client.put(
            path,
            json=new_product(name="Gammarays", sku=made["sku"]),
            headers={**merchandiser, "If-Match": changed.headers["ETag"]},
        )
        item = {"sku": "w-1", "name": "Deltawing", "price_minor": 1}
        client.post(BULK, json={"items": [item]}, headers=merchandiser)
        item = {"sku": "w-1", "attributes": {"by": "Epsilonian"}}
        client.post(BULK, json={"items": [item]}, headers=merchandiser)

        assert search("gamarays")["corrected"] == "gammarays"
        assert search("detlawing")["corrected"] == "deltawing"
        assert search("epsilonain")["corrected"] == "epsilonian"

    def test_writes_down_a_word_once(self, session, make):
        for _ in range(3):
            make(name="Quintessential mug")

        found = session.scalars(select(word).where(word.c.text == "quintessential"))
        assert found.all() == ["quintessential"]

    def test_takes_back_words_of_what_is_refused(self, session, client, merchandiser):
        make = {"sku": "w-2", "name": "Refusenik", "price_minor": 1, "category": "none"}

        answer = client.post(PRODUCTS, json=make, headers=merchandiser)

        assert answer.status_code == 422
        assert "refusenik" not in session.scalars(select(word)).all()

    def test_waits_for_nobody_with_the_same_words(self, real_sessions):
        """Two imports with a new word in another order would wait in a circle."""
        new = [
            uuid4().hex.translate(str.maketrans(string.digits, "ghijklmnop"))
            for _ in "12"
        ]
        with real_sessions() as one, real_sessions() as other:
            for session, order in ((one, new), (other, new[::-1])):
                session.execute(sql("set local lock_timeout = '1ms'"))
                for each in order:
                    session.execute(words.LEARN, {"words": [each]})
            one.commit()
            other.commit()
        with real_sessions() as session:
            found = session.scalars(select(word).where(word.c.text.in_(new))).all()
        assert sorted(found) == sorted(new * 2)
        # A twin does no harm.
        with real_sessions.begin() as session:
            session.execute(words.LEARN, {"words": new})
            (near,) = session.execute(
                words._NEAR, {"words": [new[0][:-1]], "most": 20}
            ).all()
            assert near.near == [new[0]]

    def test_keeps_few_words_of_a_product_and_none_of_long_texts(self):
        many = [f"{a}{b}{c}" for a in "abcdef" for b in "abcdef" for c in "abcdef"]

        kept = words.words_of([{"name": "Zebra", "attributes": {"all": many}}])
        long = words.words_of([{"name": "Zebra", "attributes": {"a": "word " * 100}}])

        assert len(kept) == words.WORDS_MAX
        assert "zebra" in kept
        assert long == ["zebra"]

    def test_costs_a_write_no_statement(self, session, make, make_category):
        make_category()
        with counted(session) as sent:
            make(**HOBBIT)

        writing = [one for one in sent if "INSERT INTO product (" in one]
        assert len(writing) == 1
        assert "INSERT INTO word" in writing[0]
        assert len([one for one in sent if "word" in one]) == 1


class TestCorrected:
    def test_costs_a_search_that_finds_something_nothing(self, session, make, search):
        make(**HOBBIT)

        with counted(session) as sent:
            search("hobbit")

        assert not [one for one in sent if " word" in one]

    def test_looks_at_few_words_of_nonsense(self, session, make, search):
        make(**HOBBIT)
        dice = random.Random(1)
        nonsense = [
            "".join(dice.choices(string.ascii_lowercase, k=3)) for _ in range(50)
        ]

        with counted(session) as sent:
            page = search(" ".join(nonsense))
            search("a" * 200)
            search(" ".join(f"{each}{each}{each}" for each in nonsense[:5]))

        assert page["items"] == []
        # Too many words, one that is too long, more unknown ones than are replaced.
        assert not [one for one in sent if "% asked.text" in one]

    @given(st.text(max_size=200))
    def test_survives_whatever_is_typed(self, database_url, q):
        plain = words.folded(q).lower()

        for match in words._ASKED.finditer(plain):
            assert match["word"] is None or 3 <= len(match["word"]) <= 40

    @pytest.mark.parametrize(
        "q", ['"', '-"', "- - -", "or or", '"""or" -', "%_\\", "%% || ''", "a\u0301bc'"]
    )
    def test_survives_odd_signs(self, make, search, q):
        make(**HOBBIT)

        assert "corrected" not in search(f"hobbit {q}")
        search(f"hobit {q}")

    @pytest.mark.parametrize(
        ("one", "other", "slips"),
        [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("abc", "acb", 1),
            ("tolkein", "tolkien", 1),
            ("poter", "potter", 1),
            ("abc", "xyz", 3),
            ("ca", "abc", 3),
        ],
    )
    def test_counts_slips(self, one, other, slips):
        assert words._slips(one, other) == words._slips(other, one) == slips


class TestMigration:
    def test_knows_the_words_of_products_that_were_there(
        self, make_database, make_settings, make_app
    ):
        url = make_database()
        settings = make_settings(url)
        command.upgrade(db.config(url, MIGRATIONS), "0008")
        app = make_app(url, answer_seconds=0)
        with app.extensions["flagon.sessions"].begin() as session:
            session.execute(
                sql(
                    "insert into product (id, sku, slug, name, description,"
                    " price_minor, currency, status, stock, attributes) values"
                    " (:id, 's', 's', 'The Hobbit w7', '', 1, 'EUR', 'active', 1,"
                    ' \'{"by": ["Ruiz Zaf\u00f3n", 7], "deep": {"er": "Tolkien"}}\')'
                ),
                {"id": UUID(int=1)},
            )

        db.migrate(settings, MIGRATIONS)
        db.migrate(settings, MIGRATIONS)

        with app.extensions["flagon.sessions"]() as session:
            found = session.scalars(select(word)).all()
        # The same as from now on.
        product = {
            "name": "The Hobbit w7",
            "attributes": {"by": ["Ruiz Zaf\u00f3n", 7], "deep": {"er": "Tolkien"}},
        }
        assert sorted(found) == words.words_of([product])
