"""Categories: create, read, list, replace, patch, delete."""

from uuid import uuid4

import pytest

CATEGORIES = "/api/v1/categories"


def url(category):
    return f"{CATEGORIES}/{category['id']}"


class TestCreateCategory:
    def test_answers_201_with_the_category(self, client, merchandiser, sent):
        name = f"Süßes & Salziges {uuid4().hex[:6]}"

        answer = client.post(CATEGORIES, json={"name": name}, headers=merchandiser)

        assert answer.status_code == 201
        category = answer.json
        assert list(category) == [
            "id",
            "slug",
            "name",
            "description",
            "parent",
            "path",
            "attribute_schema",
            "version",
            "created_at",
            "updated_at",
        ]
        assert category["slug"] == f"susses-salziges-{name[-6:]}"
        assert answer.headers["Location"] == url(category)
        assert answer.headers["ETag"] == f'"v1-{category["id"]}"'
        (event,) = sent(category["id"])
        assert event["type"] == "market.flagon.category.changed.v1"
        assert event["topics"] == ["categories", f"categories/{category['id']}"]
        assert event["data"] == {**category, "changed": list(category)}

    def test_makes_a_slug_for_a_name_without_latin_letters(self, make_category):
        assert make_category(name="本")["slug"].startswith("category-")

    def test_refuses_a_taken_slug(
        self, client, make_category, merchandiser, assert_problem
    ):
        slug = make_category()["slug"]

        answer = client.post(
            CATEGORIES, json={"name": "N", "slug": slug}, headers=merchandiser
        )

        problem = assert_problem(answer, 409, "category-slug-taken")
        assert problem["errors"][0]["pointer"] == "#/slug"

    def test_can_be_repeated(self, client, merchandiser):
        headers = {**merchandiser, "Idempotency-Key": uuid4().hex}
        body = {"name": f"Once {uuid4().hex[:6]}"}

        first, second = (
            client.post(CATEGORIES, json=body, headers=headers) for _ in range(2)
        )

        assert first.data == second.data

    def test_needs_the_scope(self, client, customer, assert_problem):
        assert_problem(client.post(CATEGORIES, json={"name": "N"}), 401)
        answer = client.post(CATEGORIES, json={"name": "N"}, headers=customer)
        assert_problem(answer, 403)


class TestFindCategory:
    def test_by_id_or_slug(self, client, make_category):
        category = make_category()
        category.pop("etag")

        assert client.get(url(category)).json == category
        by_slug = client.get(f"{CATEGORIES}/by-slug/{category['slug']}")
        assert by_slug.json == category
        assert "s-maxage" in by_slug.headers["Cache-Control"]

    @pytest.mark.parametrize("path", [str(uuid4()), "by-slug/none"])
    def test_answers_404_when_there_is_none(self, client, assert_problem, path):
        answer = client.get(f"{CATEGORIES}/{path}")

        assert_problem(answer, 404, "category-not-found")

    def test_answers_304_while_it_is_the_same(self, client, make_category):
        category = make_category()

        answer = client.get(url(category), headers={"If-None-Match": category["etag"]})

        assert answer.status_code == 304


class TestListCategories:
    def test_goes_through_all_by_name(self, client, make_category):
        names = ["a", "B", "c", "D", "e"]
        for name in reversed(names):
            make_category(name=name, slug=f"{name.lower()}-{uuid4().hex[:6]}")

        seen, cursor = [], None
        while True:
            asked = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = client.get(CATEGORIES, query_string=asked).json
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

        answer = client.get(CATEGORIES, query_string={"cursor": cursor})

        assert_problem(answer, 422, "cursor-invalid")


class TestChangeCategory:
    def test_by_put(self, client, make_category, merchandiser, sent):
        category = make_category(description="Old")

        answer = client.put(
            url(category),
            json={"name": "New"},
            headers={**merchandiser, "If-Match": category["etag"]},
        )

        assert answer.status_code == 200
        assert (
            answer.json.items()
            >= {
                "name": "New",
                "description": "",
                "slug": category["slug"],
                "version": 2,
            }.items()
        )
        assert answer.json["updated_at"] > category["updated_at"]
        assert sent(category["id"])[-1]["data"]["changed"] == ["name", "description"]

    def test_by_patch(self, client, make_category, merchandiser, sent):
        category = make_category(description="Old")

        answer = client.patch(
            url(category),
            json={"description": None},
            headers={**merchandiser, "If-Match": category["etag"]},
        )

        assert (
            answer.json.items()
            >= {
                "name": category["name"],
                "description": "",
            }.items()
        )
        assert sent(category["id"])[-1]["data"]["changed"] == ["description"]

    def test_without_a_difference_changes_nothing(
        self, client, make_category, merchandiser, sent
    ):
        category = make_category()

        answer = client.put(
            url(category),
            json={"name": category["name"], "slug": category["slug"]},
            headers={**merchandiser, "If-Match": category["etag"]},
        )

        assert answer.headers["ETag"] == category["etag"]
        assert len(sent(category["id"])) == 1

    def test_keeps_its_slug(self, client, make_category, merchandiser, assert_problem):
        category = make_category()

        answer = client.patch(
            url(category),
            json={"slug": "other"},
            headers={**merchandiser, "If-Match": category["etag"]},
        )

        assert_problem(answer, 409, "category-slug-fixed")

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    def test_needs_the_present_version(
        self, client, make_category, merchandiser, assert_problem, method
    ):
        category = make_category()
        body = None if method == "DELETE" else {"name": "N"}

        def change(**headers):
            return client.open(
                url(category),
                method=method,
                json=body,
                headers={**merchandiser, **headers},
            )

        assert_problem(change(), 428)
        assert_problem(change(**{"If-Match": '"v7"'}), 412)
        assert change(**{"If-Match": category["etag"]}).status_code in {200, 204}

    def test_answers_404_when_there_is_none(self, client, merchandiser, assert_problem):
        answer = client.put(
            f"{CATEGORIES}/{uuid4()}",
            json={"name": "N"},
            headers={**merchandiser, "If-Match": "*"},
        )

        assert_problem(answer, 404)


class TestDeleteCategory:
    def test_is_gone_and_leaves_an_event(
        self, client, make_category, merchandiser, sent
    ):
        category = make_category()

        answer = client.delete(url(category), headers={**merchandiser, "If-Match": "*"})

        assert answer.status_code == 204
        assert client.get(url(category)).status_code == 404
        event = sent(category["id"])[-1]
        assert event["type"] == "market.flagon.category.deleted.v1"
        assert event["data"] == {"id": category["id"], "slug": category["slug"]}

    def test_is_refused_while_products_are_in_it(
        self, client, make, make_category, merchandiser, assert_problem
    ):
        category = make_category()
        make(category=category["slug"])

        answer = client.delete(url(category), headers={**merchandiser, "If-Match": "*"})

        assert_problem(answer, 409, "category-in-use")
