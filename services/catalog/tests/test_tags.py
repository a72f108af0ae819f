"""Tags: make and change them, give them to products, find products by them."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from flagon_catalog.domain import products, tags

from .conftest import wait_until_blocked

TAGS = "/api/v1/tags"
PRODUCTS = "/api/v1/products"
WAIT = 10


def url(tag):
    return f"{TAGS}/{tag['id']}"


class TestCreateTag:
    def test_answers_201_with_the_tag(self, client, merchandiser, sent):
        name = f"Süßes & Salziges {uuid4().hex[:6]}"

        answer = client.post(TAGS, json={"name": name}, headers=merchandiser)

        assert answer.status_code == 201
        tag = answer.json
        assert list(tag) == [
            "id",
            "slug",
            "name",
            "version",
            "created_at",
            "updated_at",
        ]
        assert tag["slug"] == f"susses-salziges-{name[-6:]}"
        assert answer.headers["Location"] == url(tag)
        assert answer.headers["ETag"] == f'"v1-{tag["id"]}"'
        (event,) = sent(tag["id"])
        assert event["type"] == "market.flagon.tag.changed.v1"
        assert event["topics"] == ["tags", f"tags/{tag['id']}"]
        assert event["data"] == {**tag, "changed": list(tag)}

    def test_makes_a_slug_for_a_name_without_latin_letters(self, make_tag):
        assert make_tag(name="本")["slug"].startswith("tag-")

    def test_refuses_a_taken_slug(self, client, make_tag, merchandiser, assert_problem):
        slug = make_tag()["slug"]

        answer = client.post(
            TAGS, json={"name": "N", "slug": slug}, headers=merchandiser
        )

        problem = assert_problem(answer, 409, "tag-slug-taken")
        assert problem["errors"][0]["pointer"] == "#/slug"

    def test_can_be_repeated(self, client, merchandiser):
        headers = {**merchandiser, "Idempotency-Key": uuid4().hex}
        body = {"name": f"Once {uuid4().hex[:6]}"}

        first, second = (
            client.post(TAGS, json=body, headers=headers) for _ in range(2)
        )

        assert first.data == second.data

    def test_needs_the_scope(self, client, customer, assert_problem):
        assert_problem(client.post(TAGS, json={"name": "N"}), 401)
        answer = client.post(TAGS, json={"name": "N"}, headers=customer)
        assert_problem(answer, 403)


class TestFindTag:
    def test_by_id_or_slug(self, client, make_tag):
        tag = make_tag()
        tag.pop("etag")

        assert client.get(url(tag)).json == tag
        by_slug = client.get(f"{TAGS}/by-slug/{tag['slug']}")
        assert by_slug.json == tag
        assert "s-maxage" in by_slug.headers["Cache-Control"]

    @pytest.mark.parametrize("path", [str(uuid4()), "by-slug/none"])
    def test_answers_404_when_there_is_none(self, client, assert_problem, path):
        answer = client.get(f"{TAGS}/{path}")

        assert_problem(answer, 404, "tag-not-found")

    def test_answers_304_while_it_is_the_same(self, client, make_tag):
        tag = make_tag()

        answer = client.get(url(tag), headers={"If-None-Match": tag["etag"]})

        assert answer.status_code == 304


class TestListTags:
    def test_goes_through_all_by_name(self, client, make_tag):
        names = ["a", "B", "c", "D", "e"]
        for name in reversed(names):
            make_tag(name=name, slug=f"{name.lower()}-{uuid4().hex[:6]}")

        seen, cursor = [], None
        while True:
            asked = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = client.get(TAGS, query_string=asked).json
            seen += [item["name"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break

        assert seen == names
        assert "position" not in page["items"][0]

    def test_refuses_a_foreign_cursor(self, client, make, assert_problem):
        make()
        make()
        cursor = client.get("/api/v1/products?limit=1").json["next_cursor"]

        answer = client.get(TAGS, query_string={"cursor": cursor})

        assert_problem(answer, 422, "cursor-invalid")


class TestChangeTag:
    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    def test_by_put_or_patch(self, client, make_tag, merchandiser, sent, method):
        tag = make_tag()

        answer = client.open(
            url(tag),
            method=method,
            json={"name": "New"},
            headers={**merchandiser, "If-Match": tag["etag"]},
        )

        assert answer.status_code == 200
        assert (answer.json["name"], answer.json["version"]) == ("New", 2)
        assert answer.json["slug"] == tag["slug"]
        assert answer.json["updated_at"] > tag["updated_at"]
        assert sent(tag["id"])[-1]["data"]["changed"] == ["name"]

    def test_without_a_difference_changes_nothing(
        self, client, make_tag, merchandiser, sent
    ):
        tag = make_tag()

        answer = client.put(
            url(tag),
            json={"name": tag["name"], "slug": tag["slug"]},
            headers={**merchandiser, "If-Match": tag["etag"]},
        )

        assert answer.headers["ETag"] == tag["etag"]
        assert len(sent(tag["id"])) == 1

    def test_keeps_its_slug(self, client, make_tag, merchandiser, assert_problem):
        tag = make_tag()

        answer = client.patch(
            url(tag),
            json={"slug": "other"},
            headers={**merchandiser, "If-Match": tag["etag"]},
        )

        assert_problem(answer, 409, "tag-slug-fixed")

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    def test_needs_the_present_version(
        self, client, make_tag, merchandiser, assert_problem, method
    ):
        tag = make_tag()
        body = None if method == "DELETE" else {"name": "N"}

        def change(**headers):
            return client.open(
                url(tag),
                method=method,
                json=body,
                headers={**merchandiser, **headers},
            )

        assert_problem(change(), 428)
        assert_problem(change(**{"If-Match": '"v7"'}), 412)
        assert change(**{"If-Match": tag["etag"]}).status_code in {200, 204}

    def test_answers_404_when_there_is_none(self, client, merchandiser, assert_problem):
        answer = client.put(
            f"{TAGS}/{uuid4()}",
            json={"name": "N"},
            headers={**merchandiser, "If-Match": "*"},
        )

        assert_problem(answer, 404)


class TestDeleteTag:
    def test_is_gone_and_leaves_an_event(self, client, make_tag, merchandiser, sent):
        tag = make_tag()

        answer = client.delete(url(tag), headers={**merchandiser, "If-Match": "*"})

        assert answer.status_code == 204
        assert client.get(url(tag)).status_code == 404
        event = sent(tag["id"])[-1]
        assert event["type"] == "market.flagon.tag.deleted.v1"
        assert event["data"] == {"id": tag["id"], "slug": tag["slug"]}

    def test_is_refused_while_products_have_it(
        self, client, make, make_tag, merchandiser, assert_problem
    ):
        tag = make_tag()
        make(tags=[tag["slug"]])

        answer = client.delete(url(tag), headers={**merchandiser, "If-Match": "*"})

        assert_problem(answer, 409, "tag-in-use")

    def test_is_possible_once_no_product_has_it(
        self, client, make, make_tag, merchandiser, admin
    ):
        kept, gone = make_tag(), make_tag()
        changed = make(tags=[kept["slug"], gone["slug"]])
        deleted = make(tags=[gone["slug"]])
        headers = {**merchandiser, "If-Match": "*"}

        client.patch(
            f"{PRODUCTS}/{changed['id']}",
            json={"tags": [kept["slug"]]},
            headers=headers,
        )
        client.delete(
            f"{PRODUCTS}/{deleted['id']}?permanently=true",
            headers={**admin, "If-Match": "*"},
        )

        assert client.delete(url(gone), headers=headers).status_code == 204
        assert client.delete(url(kept), headers=headers).status_code == 409


class TestTagsOfAProduct:
    @pytest.fixture(autouse=True)
    def _tags(self, make_tag):
        for slug in ("new", "sale", "s-ale", "s0", "blue"):
            make_tag(slug=slug)

    def patch(self, client, product, headers, body):
        return client.patch(
            f"{PRODUCTS}/{product['id']}",
            json=body,
            headers={**headers, "If-Match": product["etag"]},
        )

    def test_are_shown_sorted_and_once(self, client, make, sent):
        product = make(tags=["sale", "s0", "new", "sale", "s-ale"])

        assert product["tags"] == ["new", "s-ale", "s0", "sale"]
        (item,) = client.get(PRODUCTS).json["items"]
        one = client.get(f"{PRODUCTS}/{product['id']}").json
        assert item["tags"] == one["tags"] == product["tags"]
        (event,) = sent(product["id"])
        assert event["data"]["tags"] == product["tags"]

    def test_are_none_by_default(self, make):
        assert make()["tags"] == []

    def test_change_the_version(self, client, make, merchandiser, sent):
        product = make(tags=["sale", "new"])

        answer = self.patch(client, product, merchandiser, {"tags": ["sale", "blue"]})

        assert answer.json["tags"] == ["blue", "sale"]
        assert answer.json["version"] == 2
        assert client.get(f"{PRODUCTS}/{product['id']}").json == answer.json
        assert sent(product["id"])[-1]["data"]["changed"] == ["tags"]

    @pytest.mark.parametrize("tags", [["new", "sale"], ["sale", "new", "sale"]])
    def test_that_are_the_same_change_nothing(
        self, client, make, merchandiser, sent, tags
    ):
        product = make(tags=["sale", "new"])

        answer = self.patch(client, product, merchandiser, {"tags": tags})

        assert answer.headers["ETag"] == product["etag"]
        assert len(sent(product["id"])) == 1

    def test_stay_when_something_else_changes(self, client, make, merchandiser):
        product = make(tags=["sale"])

        answer = self.patch(client, product, merchandiser, {"stock": 4})

        assert answer.json["tags"] == ["sale"]

    def test_are_taken_back_by_null_and_by_a_put_without_them(
        self, client, make, merchandiser
    ):
        first, second = make(tags=["sale"]), make(tags=["sale"])
        body = {name: second[name] for name in ("sku", "name", "price_minor")}

        patched = self.patch(client, first, merchandiser, {"tags": None})
        put = client.put(
            f"{PRODUCTS}/{second['id']}",
            json=body,
            headers={**merchandiser, "If-Match": second["etag"]},
        )

        assert patched.json["tags"] == put.json["tags"] == []
        assert client.get(f"{PRODUCTS}/{first['id']}").json["tags"] == []

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
    def test_must_exist(
        self, client, make, merchandiser, new_product, assert_problem, method
    ):
        product = make(tags=["sale"])
        path = PRODUCTS if method == "POST" else f"{PRODUCTS}/{product['id']}"

        answer = client.open(
            path,
            method=method,
            json=new_product(tags=["sale", "nowhere", "blue", "away"]),
            headers={**merchandiser, "If-Match": "*"},
        )

        problem = assert_problem(answer, 422, "tag-unknown")
        # The list as it is kept: sorted.
        assert [error["pointer"] for error in problem["errors"]] == [
            "#/tags/0",
            "#/tags/2",
        ]
        shown = client.get(f"{PRODUCTS}/{product['id']}").json
        assert (shown["tags"], shown["version"]) == (["sale"], 1)

    def test_may_be_twenty(self, make, make_tag):
        slugs = sorted(make_tag()["slug"] for _ in range(20))

        assert make(tags=slugs)["tags"] == slugs


class TestBulk:
    @pytest.fixture
    def upsert(self, client, merchandiser):
        def upsert(*items):
            answer = client.post(
                f"{PRODUCTS}/bulk", json={"items": items}, headers=merchandiser
            )
            return [result["outcome"] for result in answer.json["results"]]

        return upsert

    @pytest.fixture
    def find(self, client):
        return lambda sku: client.get(f"{PRODUCTS}/by-sku/{sku}").json

    def item(self, sku, **fields):
        return {"sku": sku, "name": sku, "price_minor": 1, **fields}

    def test_makes_tags_that_are_missing(self, upsert, find, client, make_tag, sent):
        make_tag(slug="sale")

        done = upsert(
            self.item("a", tags=["sale", "on-top", "on-top"]),
            self.item("b", tags=["on-top"]),
        )

        assert done == ["created", "created"]
        assert find("a")["tags"] == ["on-top", "sale"]
        tag = client.get(f"{TAGS}/by-slug/on-top").json
        assert tag["name"] == "On Top"
        assert len(sent(tag["id"])) == 1
        (event,) = sent(find("a")["id"])
        product = find("a")
        product.pop("description_html")
        assert event["data"] == {**product, "changed": list(product)}

    def test_changes_them_and_says_so(self, upsert, find, sent):
        upsert(self.item("a", tags=["x", "y"]), self.item("b", tags=["x"]))

        done = upsert(
            {"sku": "a", "tags": ["z", "y"]},
            {"sku": "b", "stock": 1},
        )

        assert done == ["updated", "updated"]
        assert (find("a")["tags"], find("b")["tags"]) == (["y", "z"], ["x"])
        data = sent(find("a")["id"])[-1]["data"]
        assert (data["changed"], data["tags"]) == (["tags"], ["y", "z"])
        assert sent(find("b")["id"])[-1]["data"]["tags"] == ["x"]

    def test_takes_them_all_away(self, upsert, find):
        upsert(self.item("a", tags=["x", "y"]))

        assert upsert({"sku": "a", "tags": []}) == ["updated"]
        assert find("a")["tags"] == []

    def test_that_repeats_them_changes_nothing(self, upsert, find):
        upsert(self.item("a", tags=["x", "y-z", "y0"]))

        assert upsert(self.item("a", tags=["y0", "x", "y-z"])) == ["unchanged"]
        assert find("a")["version"] == 1

    def test_handles_a_repeated_sku_in_order(self, upsert, find):
        done = upsert(
            self.item("a", tags=["x"]), {"sku": "a", "tags": ["y"]}, {"sku": "a"}
        )

        assert done == ["created", "updated", "unchanged"]
        assert find("a")["tags"] == ["y"]


class TestFilter:
    @pytest.fixture(autouse=True)
    def _assortment(self, make, make_tag):
        for slug in ("blue", "new", "sale"):
            make_tag(slug=slug)
        make(sku="a", tags=["blue", "new"])
        make(sku="b", tags=["blue"])
        make(sku="c", tags=["sale", "new"])
        make(sku="d")
        make(sku="draft", tags=["blue"], status="draft")

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("tag=blue", "ab"),
            ("tag=new", "ac"),
            ("tag=blue&tag=new", "a"),
            ("tag=new&tag=blue&tag=new", "a"),
            ("tag=blue&tag=sale", ""),
            ("tag=none", ""),
            ("tag=new&q=mug", "ac"),
            ("tag=new&sku=c", "c"),
        ],
    )
    def test_means_all_of_them(self, client, query, expected):
        page = client.get(f"{PRODUCTS}?{query}").json

        assert "".join(sorted(item["sku"] for item in page["items"])) == expected

    def test_pages_whatever_the_order_of_the_tags(self, client, make):
        make(sku="e", tags=["new", "blue"])
        first = client.get(f"{PRODUCTS}?tag=new&tag=blue&limit=1").json

        second = client.get(
            f"{PRODUCTS}?tag=blue&tag=new&limit=1&cursor={first['next_cursor']}"
        ).json

        assert [item["sku"] for item in first["items"] + second["items"]] == ["e", "a"]
        assert second["next_cursor"] is None

    def test_does_not_mix_lists(self, client, assert_problem):
        cursor = client.get(f"{PRODUCTS}?tag=new&limit=1").json["next_cursor"]

        answer = client.get(f"{PRODUCTS}?tag=new&tag=sale&limit=1&cursor={cursor}")

        assert_problem(answer, 422, "cursor-invalid")

    @pytest.mark.parametrize("query", ["sku=a&sku=b", "tag=a&sort=name&sort=name"])
    def test_alone_may_be_repeated(self, client, assert_problem, query):
        assert_problem(client.get(f"{PRODUCTS}?{query}"), 400)


class TestAtTheSameTime:
    @pytest.fixture
    def real_client(self, real_app):
        return real_app.test_client

    @pytest.fixture
    def product(self, real_client, merchandiser, new_product):
        item = new_product(tags=["old-tag"])
        real_client().post(
            f"{PRODUCTS}/bulk", json={"items": [item]}, headers=merchandiser
        )
        return real_client().get(f"{PRODUCTS}/by-sku/{item['sku']}").json

    def change_meanwhile(self, real_app, real_sessions, product, tag, request):
        """Send a request that waits until another transaction gave the product a tag."""
        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            tags.ensure_tags(session, [tag])
            locked = products.lock_product(session, id=product["id"])
            products.change_product(session, locked, {"tags": [tag]})
            waiting = pool.submit(request)
            wait_until_blocked(session)
            session.commit()
            return waiting.result(WAIT)

    def test_a_change_shows_the_tags_that_are_current(
        self, real_app, real_client, real_sessions, merchandiser, product
    ):
        answer = self.change_meanwhile(
            real_app,
            real_sessions,
            product,
            "meanwhile",
            lambda: real_client().patch(
                f"{PRODUCTS}/{product['id']}",
                json={"stock": 8},
                headers={**merchandiser, "If-Match": "*"},
            ),
        )

        assert (answer.json["stock"], answer.json["tags"]) == (8, ["meanwhile"])

    def test_a_bulk_upsert_compares_with_the_tags_that_are_current(
        self, real_app, real_client, real_sessions, merchandiser, product
    ):
        """What was so before it waited is no reason to leave it."""
        answer = self.change_meanwhile(
            real_app,
            real_sessions,
            product,
            "meanwhile",
            lambda: real_client().post(
                f"{PRODUCTS}/bulk",
                json={"items": [{"sku": product["sku"], "tags": ["old-tag"]}]},
                headers=merchandiser,
            ),
        )

        assert answer.json["summary"]["updated"] == 1
        shown = real_client().get(f"{PRODUCTS}/{product['id']}").json
        assert (shown["tags"], shown["version"]) == (["old-tag"], 3)

    def test_batches_with_the_same_tags_do_not_deadlock(
        self, together, real_client, merchandiser
    ):
        mark = uuid4().hex[:8]
        slugs = [f"{mark}-{number}" for number in range(15)]

        def upsert(turn):
            items = [
                {
                    "sku": f"{mark}-{number}",
                    "name": "N",
                    "price_minor": 1,
                    "tags": slugs[:: -1 if turn % 2 else 1][: number + 1],
                }
                for number in range(15)
            ]
            return real_client().post(
                f"{PRODUCTS}/bulk",
                json={"items": items[:: -1 if turn % 2 else 1]},
                headers=merchandiser,
            )

        answers = together(upsert, range(4))

        assert [answer.status_code for answer in answers] == [200] * 4
        assert sum(answer.json["summary"]["created"] for answer in answers) == 15

    def test_no_product_keeps_a_tag_that_is_gone(
        self, together, real_client, merchandiser, new_product
    ):
        for _ in range(5):
            tag = real_client().post(
                TAGS, json={"name": f"T {uuid4().hex}"}, headers=merchandiser
            )
            calls = [
                lambda tag=tag: real_client().delete(
                    tag.headers["Location"], headers={**merchandiser, "If-Match": "*"}
                ),
                lambda tag=tag: real_client().post(
                    PRODUCTS,
                    json=new_product(tags=[tag.json["slug"]]),
                    headers=merchandiser,
                ),
            ]

            gone, made = together(lambda call: call(), calls)

            assert (gone.status_code, made.status_code) in {(204, 422), (409, 201)}
