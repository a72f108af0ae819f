"""Categories in categories: places, moves, what is found in them."""

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from random import Random
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from flagon_catalog.domain import categories
from flagon_catalog.models import LEVELS_MAX, Category

from .conftest import wait_until_blocked

CATEGORIES = "/api/v1/categories"
PRODUCTS = "/api/v1/products"
WAIT = 10


def url(category):
    return f"{CATEGORIES}/{category['id']}"


@pytest.fixture
def shelf(make_category):
    """Create a category with this slug in another one."""

    def shelf(slug, parent=None):
        return make_category(name=slug.title(), slug=slug, parent=parent)

    return shelf


@pytest.fixture
def move(client, merchandiser):
    """Ask for another parent and return the answer."""

    def move(category, parent, method="PATCH"):
        name = {"name": category["name"]} if method == "PUT" else {}
        return client.open(
            url(category),
            method=method,
            json={**name, "parent": parent},
            headers={**merchandiser, "If-Match": "*"},
        )

    return move


@pytest.fixture
def find(client):
    return lambda slug: client.get(f"{CATEGORIES}/by-slug/{slug}").json


class TestPlace:
    def test_is_shown(self, client, shelf, find, sent):
        root, child = shelf("home"), shelf("kitchen", "home")
        leaf = shelf("pans", "kitchen")

        assert (root["parent"], root["path"]) == (None, ["home"])
        assert (child["parent"], child["path"]) == ("home", ["home", "kitchen"])
        assert (leaf["parent"], leaf["path"]) == (
            "kitchen",
            ["home", "kitchen", "pans"],
        )
        etag = leaf.pop("etag")
        assert find("pans") == leaf
        assert client.get(url(leaf)).headers["ETag"] == etag
        assert leaf in client.get(CATEGORIES).json["items"]
        assert sent(leaf["id"])[0]["data"] == {**leaf, "changed": list(leaf)}

    def test_must_be_in_what_exists(self, client, merchandiser, assert_problem):
        answer = client.post(
            CATEGORIES, json={"name": "N", "parent": "nowhere"}, headers=merchandiser
        )

        problem = assert_problem(answer, 422, "parent-unknown")
        assert problem["errors"][0]["pointer"] == "#/parent"

    @pytest.mark.parametrize(
        "parent", ["A b", "", "x" * 121, 7, [], {"slug": "x"}, "'; drop table category"]
    )
    def test_is_a_slug(self, client, merchandiser, assert_problem, parent):
        answer = client.post(
            CATEGORIES, json={"name": "N", "parent": parent}, headers=merchandiser
        )

        assert_problem(answer, 422, "invalid-request")

    def test_is_not_too_deep(self, client, shelf, merchandiser, assert_problem):
        parent = None
        for level in range(LEVELS_MAX):
            parent = shelf(f"level-{level}", parent)["slug"]

        answer = client.post(
            CATEGORIES, json={"name": "N", "parent": parent}, headers=merchandiser
        )

        assert_problem(answer, 409, "category-too-deep")

    def test_of_what_bulk_makes_is_a_root(self, client, merchandiser, find):
        item = {"sku": "x", "name": "X", "price_minor": 1, "category": "made"}
        client.post(f"{PRODUCTS}/bulk", json={"items": [item]}, headers=merchandiser)

        assert find("made")["path"] == ["made"]

    @pytest.mark.parametrize(
        "change",
        [
            "path = array['a','b','c','d','e','f', slug]",
            "path = array[slug, 'other']",
            "path = array['other', slug]",
            "parent_id = id",
        ],
    )
    def test_is_held_to_its_rules_by_the_database(self, shelf, session, change):
        category = shelf("x")

        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(
                text(f"update category set {change} where id = :id"),
                {"id": category["id"]},
            )


class TestListCategories:
    @pytest.fixture(autouse=True)
    def _tree(self, shelf):
        for slug, parent in (
            ("home", None),
            ("books", None),
            ("kitchen", "home"),
            ("bath", "home"),
            ("pans", "kitchen"),
        ):
            shelf(slug, parent)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", ["bath", "books", "home", "kitchen", "pans"]),
            ("?parent=", ["books", "home"]),
            ("?parent=home", ["bath", "kitchen"]),
            ("?parent=pans", []),
            ("?parent=nowhere", []),
        ],
    )
    def test_of_one_parent(self, client, query, expected):
        page = client.get(f"{CATEGORIES}{query}").json

        assert [item["slug"] for item in page["items"]] == expected

    def test_in_pages(self, client, assert_problem):
        first = client.get(f"{CATEGORIES}?parent=home&limit=1").json
        cursor = first["next_cursor"]

        second = client.get(f"{CATEGORIES}?parent=home&limit=1&cursor={cursor}").json

        assert second["items"][0]["slug"] == "kitchen"
        assert second["next_cursor"] is None
        for other in ("", "&parent=", "&parent=books"):
            answer = client.get(f"{CATEGORIES}?limit=1{other}&cursor={cursor}")
            assert_problem(answer, 422, "cursor-invalid")

    @pytest.mark.parametrize("query", ["parent=A%20b", "parent=a&parent=b"])
    def test_of_nonsense(self, client, assert_problem, query):
        answer = client.get(f"{CATEGORIES}?{query}")

        assert_problem(answer, answer.status_code)
        assert answer.status_code in {400, 422}


class TestMove:
    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    def test_takes_along_what_is_inside(self, shelf, move, find, sent, method):
        shelf("home")
        shelf("garden")
        kitchen = shelf("kitchen", "home")
        pans, woks = shelf("pans", "kitchen"), shelf("woks", "pans")
        shelf("kitchens")

        answer = move(kitchen, "garden", method)

        assert answer.json["path"] == ["garden", "kitchen"]
        assert answer.json["version"] == 2
        assert sent(kitchen["id"])[-1]["data"]["changed"] == ["parent", "path"]
        assert find("woks")["path"] == ["garden", "kitchen", "pans", "woks"]
        assert find("kitchens")["version"] == 1
        for inner in (pans, woks):
            shown = find(inner["slug"])
            assert shown["version"] == 2
            assert shown["parent"] == inner["parent"]
            assert sent(inner["id"])[-1]["data"] == {**shown, "changed": ["path"]}

    def test_makes_old_etags_of_what_is_inside_useless(
        self, client, shelf, move, merchandiser, assert_problem
    ):
        shelf("home")
        kitchen = shelf("kitchen")
        pans = shelf("pans", "kitchen")

        move(kitchen, "home")

        again = client.get(url(pans), headers={"If-None-Match": pans["etag"]})
        assert again.json["path"] == ["home", "kitchen", "pans"]
        stale = client.patch(
            url(pans),
            json={"name": "X"},
            headers={**merchandiser, "If-Match": pans["etag"]},
        )
        assert_problem(stale, 412)

    def test_to_the_root(self, client, shelf, move, find, merchandiser):
        shelf("home")
        kitchen, bath = shelf("kitchen", "home"), shelf("bath", "home")
        shelf("pans", "kitchen")

        answer = move(kitchen, None)

        assert (answer.json["parent"], answer.json["path"]) == (None, ["kitchen"])
        assert find("pans")["path"] == ["kitchen", "pans"]
        # A PUT without a parent gives the default, which is none.
        put = client.put(
            url(bath), json={"name": "B"}, headers={**merchandiser, "If-Match": "*"}
        )
        assert put.json["path"] == ["bath"]

    def test_is_none_when_the_parent_is_not_named(self, client, shelf, merchandiser):
        shelf("home")
        kitchen = shelf("kitchen", "home")

        answer = client.patch(
            url(kitchen),
            json={"description": "D"},
            headers={**merchandiser, "If-Match": kitchen["etag"]},
        )

        assert answer.json["path"] == ["home", "kitchen"]

    @pytest.mark.parametrize("inside", ["home", "kitchen", "pans"])
    def test_never_into_itself(
        self, shelf, move, find, session, assert_problem, inside
    ):
        home = shelf("home")
        shelf("kitchen", "home")
        shelf("pans", "kitchen")

        assert_problem(move(home, inside), 409, "category-in-itself")
        session.expire_all()
        assert find("home")["version"] == 1

    def test_never_too_deep(self, shelf, move, find, assert_problem):
        top = parent = shelf("a0")
        for level in range(1, 4):
            parent = shelf(f"a{level}", parent["slug"])
        deep = None
        for level in range(3):
            deep = shelf(f"b{level}", deep and deep["slug"])

        assert move(top, "b1").status_code == 200
        assert len(find("a3")["path"]) == LEVELS_MAX
        assert_problem(move(top, "b2"), 409, "category-too-deep")

    def test_to_nowhere(self, shelf, move, assert_problem):
        assert_problem(move(shelf("home"), "nowhere"), 422, "parent-unknown")

    def test_keeps_every_path_true_whatever_is_moved(self, shelf, move, session):
        """Paths are what following the parents gives, after any moves."""
        random = Random(4)
        made = [shelf(f"n{number}") for number in range(8)]
        done = [
            move(random.choice(made), random.choice(made)["slug"]).status_code
            for _ in range(60)
        ]

        assert {200, 409} == set(done)
        session.expire_all()
        assert_true(session)


class TestDeleteCategory:
    def test_is_refused_while_categories_are_in_it(
        self, client, shelf, merchandiser, assert_problem
    ):
        home = shelf("home")
        kitchen = shelf("kitchen", "home")
        headers = {**merchandiser, "If-Match": "*"}

        answer = client.delete(url(home), headers=headers)

        assert_problem(answer, 409, "category-has-children")
        assert client.delete(url(kitchen), headers=headers).status_code == 204
        assert client.delete(url(home), headers=headers).status_code == 204


class TestFilter:
    SORTS = (
        "created_at",
        "-created_at",
        "name",
        "-name",
        "price_minor",
        "-price_minor",
    )

    @pytest.fixture(autouse=True)
    def assortment(self, client, merchandiser, shelf):
        for slug, parent in (
            ("home", None),
            ("kitchen", "home"),
            ("pans", "kitchen"),
            ("bath", "home"),
            ("empty", "home"),
            ("homes", None),
        ):
            shelf(slug, parent)
        shelves = ["home", "kitchen", "pans", "bath", "homes", None]
        items = [
            {
                "sku": f"s{number}",
                "name": f"N{number * 5 % 7}",
                "price_minor": number * 3 % 4,
                "category": shelves[number % 6],
                "status": "draft" if number % 5 == 0 else "active",
                "tags": ["sale"] if number % 3 else [],
                "stock": number % 2,
            }
            for number in range(30)
        ]
        client.post(f"{PRODUCTS}/bulk", json={"items": items}, headers=merchandiser)
        asked = f"{PRODUCTS}?status=any&limit=100"
        return client.get(asked, headers=merchandiser).json["items"]

    @pytest.mark.parametrize("sort", SORTS)
    @pytest.mark.parametrize("limit", [1, 3, 100])
    @pytest.mark.parametrize(
        ("asked", "wanted"),
        [
            ({"category": "home"}, lambda _: True),
            ({"category": "home", "status": "any"}, None),
            (
                {"category": "home", "tag": "sale", "in_stock": "true"},
                lambda p: p["tags"] and p["stock"],
            ),
        ],
    )
    def test_finds_the_same_as_a_plain_search(
        self, client, merchandiser, assortment, sort, limit, asked, wanted
    ):
        if wanted is None:
            wanted, statuses = (lambda _: True), {"active", "draft"}
        else:
            statuses = {"active"}
        inside = {"home", "kitchen", "pans", "bath"}
        expected = [
            product
            for product in assortment
            if product["category"] in inside
            and product["status"] in statuses
            and wanted(product)
        ]
        key = sort.lstrip("-")
        expected.sort(
            key=lambda p: (str(p[key]).lower() if key == "name" else p[key], p["id"]),
            reverse=sort.startswith("-"),
        )

        found, cursor = [], {}
        while True:
            page = client.get(
                PRODUCTS,
                query_string={"sort": sort, "limit": limit, **asked, **cursor},
                headers=merchandiser,
            ).json
            found += page["items"]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}

        assert [p["id"] for p in found] == [p["id"] for p in expected]

    @pytest.mark.parametrize(
        ("category", "expected"),
        [
            ("kitchen", {"kitchen", "pans"}),
            ("pans", {"pans"}),
            ("empty", set()),
            ("homes", {"homes"}),
            ("nowhere", set()),
        ],
    )
    @pytest.mark.parametrize("search", [{}, {"q": "N0 or N1 or N2 or N3 or N4 or N5"}])
    def test_means_the_category_and_all_in_it(self, client, category, expected, search):
        page = client.get(
            PRODUCTS, query_string={"category": category, "limit": 100, **search}
        ).json

        assert {item["category"] for item in page["items"]} == expected

    def test_goes_by_where_a_category_is_now(self, client, move, find):
        move(find("kitchen"), "homes")

        page = client.get(f"{PRODUCTS}?category=homes&limit=100").json

        found = {item["category"] for item in page["items"]}
        assert found == {"homes", "kitchen", "pans"}


class TestAtTheSameTime:
    @pytest.fixture
    def real_client(self, real_app):
        return real_app.test_client

    @pytest.fixture
    def plant(self, real_client, merchandiser):
        """Create categories that no other test has, each in the one before if asked."""

        def plant(count, *, nested=False):
            made = []
            for _ in range(count):
                parent = made[-1]["slug"] if nested and made else None
                body = {"name": f"C {uuid4().hex}", "parent": parent}
                answer = real_client().post(CATEGORIES, json=body, headers=merchandiser)
                made.append(answer.json)
            return made

        return plant

    @pytest.fixture
    def move(self, real_client, merchandiser):
        def move(category, parent):
            return real_client().patch(
                url(category),
                json={"parent": parent["slug"]},
                headers={**merchandiser, "If-Match": "*"},
            )

        return move

    def test_two_moves_make_no_circle(
        self, together, plant, move, real_sessions, assert_problem
    ):
        for _ in range(8):
            first, second = plant(2)

            answers = together(
                lambda pair: move(*pair), [(first, second), (second, first)]
            )

            assert sorted(answer.status_code for answer in answers) == [200, 409]
            lost = next(answer for answer in answers if answer.status_code == 409)
            assert_problem(lost, 409, "category-in-itself")
        with real_sessions() as session:
            assert_true(session)

    def test_a_move_waits_for_the_one_that_would_make_it_a_circle(
        self, plant, move, real_app, real_sessions, assert_problem
    ):
        first, second = plant(2)
        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            locked = categories.lock_category(session, id=first["id"])
            categories.change_category(
                session,
                locked,
                name="N",
                slug=None,
                description="",
                attribute_schema=None,
                parent=second["slug"],
            )
            waiting = pool.submit(move, second, first)
            wait_until_blocked(session)
            session.commit()

            assert_problem(waiting.result(WAIT), 409, "category-in-itself")

    def test_many_moves_leave_a_tree(self, together, plant, move, real_sessions):
        made = plant(5)

        answers = together(lambda pair: move(*pair), list(permutations(made, 2)))

        assert {answer.status_code for answer in answers} <= {200, 409}
        with real_sessions() as session:
            assert_true(session)

    def test_a_new_category_gets_the_path_of_where_its_parent_went(
        self, together, plant, move, real_client, real_sessions, merchandiser
    ):
        for _ in range(5):
            chain = plant(3, nested=True)
            (target,) = plant(1)
            calls = [
                lambda chain=chain, target=target: move(chain[0], target),
                lambda chain=chain: real_client().post(
                    CATEGORIES,
                    json={"name": f"C {uuid4().hex}", "parent": chain[-1]["slug"]},
                    headers=merchandiser,
                ),
            ]

            moved, made = together(lambda call: call(), calls)

            assert (moved.status_code, made.status_code) == (200, 201)
            shown = real_client().get(url(made.json)).json
            slugs = [category["slug"] for category in (target, *chain, made.json)]
            assert shown["path"] == slugs
        with real_sessions() as session:
            assert_true(session)

    def test_a_category_is_deleted_or_gets_a_child(
        self, together, plant, real_client, merchandiser
    ):
        for _ in range(5):
            (parent,) = plant(1)
            calls = [
                lambda parent=parent: real_client().delete(
                    url(parent), headers={**merchandiser, "If-Match": "*"}
                ),
                lambda parent=parent: real_client().post(
                    CATEGORIES,
                    json={"name": f"C {uuid4().hex}", "parent": parent["slug"]},
                    headers=merchandiser,
                ),
            ]

            gone, made = together(lambda call: call(), calls)

            assert (gone.status_code, made.status_code) in {(204, 422), (409, 201)}


def assert_true(session):
    """Check that each path is what following the parents gives, and ends."""
    rows = session.execute(
        select(Category.id, Category.slug, Category.parent_id, Category.path)
    ).all()
    known = {row.id: row for row in rows}
    for row in rows:
        way = [row.slug]
        above = row
        while above.parent_id is not None:
            above = known[above.parent_id]
            way.insert(0, above.slug)
            assert len(way) <= LEVELS_MAX, way
        assert row.path == way
