"""Reviews: written by people, shown once a moderator agrees."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select

from flagon_catalog.domain import reviews
from flagon_catalog.models import Review

PRODUCTS = "/api/v1/products"
REVIEWS = "/api/v1/reviews"
GOOD = {
    "author": "Ada L.",
    "rating": 4,
    "title": "Keeps tea warm",
    "body": "Two hours, *measured*.",
    "language": "en",
}


def under(product):
    return f"{PRODUCTS}/{product['id']}/reviews"


def url(review):
    return f"{REVIEWS}/{review['id']}"


@pytest.fixture
def person(bearer):
    """Headers of a new account that may review."""

    def person(**claims):
        sub = str(uuid4())
        return {**bearer("reviews:write", sub=sub, **claims), "X-Sub": sub}

    return person


@pytest.fixture
def ada(person):
    return person()


@pytest.fixture
def bob(person):
    return person()


@pytest.fixture
def product(make):
    return make()


@pytest.fixture
def write(client, person, product):
    """Write a review through the API and return it with its ETag and its author."""

    def write(who=None, about=None, **fields):
        who = who or person()
        answer = client.post(
            under(about or product), json={**GOOD, **fields}, headers=who
        )
        assert answer.status_code == 201, answer.text
        return {**answer.json, "etag": answer.headers["ETag"], "who": who}

    return write


@pytest.fixture
def moderate(client, merchandiser):
    """Publish or reject a review and return it with its new ETag."""

    def moderate(review, action="publish", **body):
        answer = client.post(
            f"{url(review)}/{action}",
            json=body or None,
            headers={**merchandiser, "If-Match": review["etag"]},
        )
        assert answer.status_code == 200, answer.text
        return {**review, **answer.json, "etag": answer.headers["ETag"]}

    return moderate


@pytest.fixture
def published(write, moderate):
    return lambda *args, **fields: moderate(write(*args, **fields))


@pytest.fixture
def unmoderated(app, monkeypatch):
    changed = app.extensions["flagon.settings"].model_copy(
        update={"reviews_moderated": False}
    )
    monkeypatch.setitem(app.extensions, "flagon.settings", changed)


@pytest.fixture
def rating(client, merchandiser):
    def rating(product):
        shown = client.get(f"{PRODUCTS}/{product['id']}", headers=merchandiser)
        return shown.json["rating"]

    return rating


class TestCreateReview:
    def test_answers_201_with_the_review(self, client, product, ada, assert_problem):
        answer = client.post(under(product), json=GOOD, headers=ada)

        assert answer.status_code == 201
        review = answer.json
        assert review.items() >= GOOD.items()
        assert review["product_id"] == product["id"]
        assert review["subject"] == ada["X-Sub"]
        assert (review["state"], review["note"], review["version"]) == (
            "pending",
            None,
            1,
        )
        assert review["body_html"] == "<p>Two hours, <em>measured</em>.</p>"
        assert UUID(review["id"]).version == 7
        assert answer.headers["Location"] == url(review)
        assert client.get(url(review), headers=ada).json == review

    def test_needs_stars_a_title_and_a_name_alone(self, client, product, ada):
        body = {"author": "A", "rating": 1, "title": "T"}

        review = client.post(under(product), json=body, headers=ada).json

        assert (review["body"], review["body_html"], review["language"]) == (
            "",
            "",
            None,
        )

    def test_waits_for_a_moderator(self, client, product, write, rating):
        review = write()

        assert client.get(under(product)).json["items"] == []
        assert client.get(url(review)).status_code == 404
        assert rating(product) == {"count": 0, "average": None}

    @pytest.mark.usefixtures("unmoderated")
    def test_is_shown_at_once_where_nobody_moderates(
        self, client, product, write, rating
    ):
        review = write(rating=5)

        (shown,) = client.get(under(product)).json["items"]
        assert (shown["id"], shown["state"]) == (review["id"], "published")
        assert rating(product) == {"count": 1, "average": 5}

    def test_links_to_the_review_that_exists(
        self, client, product, write, ada, assert_problem
    ):
        first = write(ada)

        answer = client.post(under(product), json=GOOD, headers=ada)

        assert assert_problem(answer, 409, "review-exists")["review"] == url(first)

    def test_can_be_repeated_with_a_key(self, client, product, ada, session):
        headers = {**ada, "Idempotency-Key": uuid4().hex}

        first, again = (
            client.post(under(product), json=GOOD, headers=headers) for _ in range(2)
        )

        assert first.data == again.data
        assert again.headers["Idempotent-Replayed"] == "true"
        assert session.scalar(select(func.count()).select_from(Review)) == 1

    def test_of_an_unknown_product_or_a_draft_is_a_404(
        self, client, make, ada, merchandiser, assert_problem
    ):
        draft = make(status="draft")
        for product in (draft, {"id": uuid4()}):
            answer = client.post(under(product), json=GOOD, headers=ada)
            assert_problem(answer, 404, "product-not-found")

    def test_of_an_archived_product_is_refused(self, client, make, ada, assert_problem):
        archived = make(status="archived")

        answer = client.post(under(archived), json=GOOD, headers=ada)

        assert_problem(answer, 409, "product-archived")

    def test_needs_the_scope(self, client, product, bearer, assert_problem):
        answer = client.post(
            under(product), json=GOOD, headers=bearer("catalog:write", "jobs:read")
        )

        assert_problem(answer, 403, "scope-missing")
        assert_problem(client.post(under(product), json=GOOD), 401, "token-missing")

    @pytest.mark.parametrize(
        "claims",
        [
            {"sub": "importer", "client_id": "importer", "sid": None},
            {"sub": "importer", "client_id": "importer"},
            {"sid": None},
            {"sub": "no-uuid"},
        ],
    )
    def test_is_for_people(self, client, product, bearer, assert_problem, claims):
        service = bearer("reviews:write", **claims)

        answer = client.post(under(product), json=GOOD, headers=service)

        assert_problem(answer, 403, "person-required")
        listed = client.get(REVIEWS, headers=service)
        assert_problem(listed, 403, "person-required")


class TestListProductReviews:
    def test_shows_published_ones_without_what_is_private(
        self, client, product, published, write
    ):
        review = published()
        write()

        answer = client.get(under(product))

        (shown,) = answer.json["items"]
        assert shown["id"] == review["id"]
        assert (shown["subject"], shown["note"]) == (None, None)
        assert review["who"]["X-Sub"] not in answer.text
        assert "s-maxage" in answer.headers["Cache-Control"]

    def test_shows_the_same_to_its_author(self, client, product, published):
        review = published()

        shown = client.get(under(product), headers=review["who"]).json["items"]

        assert shown == client.get(under(product)).json["items"]

    @pytest.mark.parametrize("sort", ["newest", "highest", "lowest"])
    def test_pages_through_all_of_them_in_order(self, client, product, published, sort):
        made = [published(rating=stars) for stars in (3, 5, 1, 5, 3)]
        order = {
            "newest": [4, 3, 2, 1, 0],
            "highest": [3, 1, 4, 0, 2],
            "lowest": [2, 0, 4, 1, 3],
        }[sort]

        found, query = [], f"?sort={sort}&limit=2"
        while True:
            page = client.get(under(product) + query).json
            found += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            query = f"?sort={sort}&limit=2&cursor={page['next_cursor']}"

        assert found == [made[number]["id"] for number in order]

    def test_filters_by_rating_and_language(self, client, product, published):
        english = published(rating=5)
        german = published(rating=5, language="de")
        published(rating=2, language="de")

        def found(query):
            items = client.get(f"{under(product)}?{query}").json["items"]
            return {item["id"] for item in items}

        assert found("rating=5") == {english["id"], german["id"]}
        assert found("rating=5&language=de") == {german["id"]}
        assert found("rating=1") == set()

    def test_refuses_the_cursor_of_another_list(
        self, client, product, make, published, assert_problem
    ):
        published()
        published()
        cursor = client.get(f"{under(product)}?limit=1").json["next_cursor"]
        for other in (
            f"{under(make())}?limit=1",
            f"{under(product)}?limit=1&sort=highest",
            f"{under(product)}?limit=1&rating=4",
        ):
            answer = client.get(f"{other}&cursor={cursor}")
            assert_problem(answer, 422, "cursor-invalid")

    def test_hides_those_of_hidden_products(
        self, client, make, published, merchandiser, assert_problem
    ):
        product = make()
        review = published(about=product)
        for status in ("draft", "archived"):
            client.patch(
                f"{PRODUCTS}/{product['id']}",
                json={"status": status},
                headers={**merchandiser, "If-Match": "*"},
            )
            assert_problem(client.get(under(product)), 404, "product-not-found")
            assert_problem(client.get(url(review)), 404, "review-not-found")
            shown = client.get(under(product), headers=merchandiser).json["items"]
            assert [item["id"] for item in shown] == [review["id"]]
            assert client.get(url(review), headers=review["who"]).status_code == 200


class TestListReviews:
    def test_shows_people_their_own(self, client, write, published, ada, bob, make):
        mine = [write(ada), published(ada, make())]
        write(bob)

        items = client.get(REVIEWS, headers=ada).json["items"]

        assert [item["id"] for item in items] == [mine[1]["id"], mine[0]["id"]]

    def test_shows_moderators_what_waits(
        self, client, write, published, merchandiser, make
    ):
        about = make()
        waiting = [write(about=about) for _ in range(3)]
        published(about=about)

        query = f"{REVIEWS}?state=pending&sort=oldest&limit=2"
        page = client.get(query, headers=merchandiser).json
        rest = client.get(
            f"{query}&cursor={page['next_cursor']}", headers=merchandiser
        ).json

        found = [item["id"] for item in page["items"] + rest["items"]]
        assert found == [review["id"] for review in waiting]
        assert page["items"][0]["subject"] == waiting[0]["who"]["X-Sub"]

    def test_shows_moderators_their_own_if_asked(self, client, write, bearer):
        sub = str(uuid4())
        both = bearer("reviews:write", "catalog:write", sub=sub)
        mine = write(both)
        write()

        def found(query):
            items = client.get(REVIEWS + query, headers=both).json["items"]
            return [item["id"] for item in items]

        assert found("?own=true") == [mine["id"]]
        assert len(found("")) == 2

    def test_gives_no_cursor_to_others(
        self, client, write, ada, bob, make, assert_problem
    ):
        write(ada)
        write(ada, make())
        cursor = client.get(f"{REVIEWS}?limit=1", headers=ada).json["next_cursor"]

        answer = client.get(f"{REVIEWS}?limit=1&cursor={cursor}", headers=bob)

        assert_problem(answer, 422, "cursor-invalid")

    def test_needs_a_scope(self, client, bearer, assert_problem):
        assert_problem(
            client.get(REVIEWS, headers=bearer("jobs:read")), 403, "scope-missing"
        )
        assert_problem(client.get(REVIEWS), 401, "token-missing")


class TestFindReview:
    def test_hides_other_peoples_unpublished_ones(
        self, client, write, moderate, bob, merchandiser, bearer, assert_problem
    ):
        review = write()
        for seen in (review, moderate(review, "reject", note="No.")):
            for headers in ({}, bob, bearer("jobs:read", sub=seen["subject"])):
                answer = client.get(url(seen), headers=headers)
                assert_problem(answer, 404, "review-not-found")
            for headers in (seen["who"], merchandiser):
                assert client.get(url(seen), headers=headers).status_code == 200

    def test_answers_304_to_those_who_have_it(self, client, published):
        review = published()
        for headers in ({}, review["who"]):
            seen = client.get(url(review), headers=headers)
            again = client.get(
                url(review), headers={**headers, "If-None-Match": seen.headers["ETag"]}
            )
            assert again.status_code == 304

    def test_has_a_tag_for_strangers_and_one_for_its_author(self, client, published):
        review = published()

        stranger = client.get(url(review))
        author = client.get(url(review), headers=review["who"])

        assert stranger.json != author.json
        assert stranger.headers["ETag"] != author.headers["ETag"]
        assert stranger.headers["Cache-Control"].startswith("public")
        assert author.headers["Cache-Control"].startswith("private")


class TestChangeReview:
    @pytest.fixture
    def change(self, client):
        def change(review, body, headers=None, etag=None):
            headers = headers or review["who"]
            return client.patch(
                url(review),
                json=body,
                headers={**headers, "If-Match": etag or review["etag"]},
            )

        return change

    def test_sets_what_is_given(self, write, change):
        review = write()

        answer = change(review, {"rating": 2, "body": "**No.**", "language": None})

        assert answer.status_code == 200
        new = answer.json
        assert (new["rating"], new["body_html"], new["language"], new["version"]) == (
            2,
            "<p><strong>No.</strong></p>",
            None,
            2,
        )
        assert (new["title"], new["author"]) == (GOOD["title"], GOOD["author"])
        assert new["updated_at"] > review["updated_at"]
        assert answer.headers["ETag"] != review["etag"]

    def test_by_its_author_waits_again(
        self, client, product, published, change, rating
    ):
        review = published()

        assert change(review, {"title": "Worse"}).json["state"] == "pending"

        assert client.get(url(review)).status_code == 404
        assert client.get(under(product)).json["items"] == []
        assert rating(product) == {"count": 0, "average": None}

    @pytest.mark.usefixtures("unmoderated")
    def test_is_shown_at_once_where_nobody_moderates(
        self, product, write, change, rating
    ):
        review = write(rating=1)

        assert change(review, {"rating": 3}).json["state"] == "published"

        assert rating(product) == {"count": 1, "average": 3}

    @pytest.mark.usefixtures("unmoderated")
    def test_does_not_get_around_a_rejection(self, write, moderate, change):
        review = moderate(write(), "reject", note="No.")

        first = change(review, {"title": "Again"})
        second = change(review, {"title": "More"}, etag=first.headers["ETag"])

        assert [answer.json["state"] for answer in (first, second)] == ["pending"] * 2
        assert first.json["note"] is None

    def test_by_a_moderator_leaves_its_state_and_its_stars(
        self, published, change, merchandiser, assert_problem
    ):
        review = published()

        answer = change(review, {"body": "Redacted."}, merchandiser)

        assert answer.json["state"] == "published"
        assert answer.json["subject"] == review["subject"]
        refused = change(review, {"rating": 1}, merchandiser, answer.headers["ETag"])
        assert_problem(refused, 403, "rating-not-yours")

    def test_that_changes_nothing_leaves_the_version(self, published, change, sent):
        review = published()
        told = len(sent())

        answer = change(review, {"title": GOOD["title"]})

        assert (answer.json["version"], answer.json["state"]) == (2, "published")
        assert len(sent()) == told

    def test_is_refused_to_others(self, published, write, change, bob, assert_problem):
        assert_problem(
            change(published(), {"title": "Mine"}, bob), 403, "review-not-yours"
        )
        assert_problem(change(write(), {"title": "Mine"}, bob), 404, "review-not-found")

    def test_needs_the_newest_version(
        self, client, write, moderate, change, assert_problem
    ):
        review = write()
        moderate(review)

        answer = change(review, {"title": "Late"})

        assert_problem(answer, 412, "version-stale")
        bare = client.patch(url(review), json={"title": "x"}, headers=review["who"])
        assert_problem(bare, 428, "version-required")

    @pytest.mark.parametrize("name", ["author", "rating", "title"])
    def test_cannot_take_back_what_is_needed(self, write, change, assert_problem, name):
        assert_problem(change(write(), {name: None}), 422, "invalid-request")


class TestDeleteReview:
    def test_ends_it_and_what_it_counted(self, client, product, published, rating, ada):
        review = published(ada)

        answer = client.delete(url(review), headers={**ada, "If-Match": review["etag"]})

        assert answer.status_code == 204
        assert client.get(url(review), headers=ada).status_code == 404
        assert rating(product) == {"count": 0, "average": None}
        assert client.post(under(product), json=GOOD, headers=ada).status_code == 201

    def test_is_for_its_author_and_moderators(
        self, client, published, bob, merchandiser, assert_problem
    ):
        review = published()

        refused = client.delete(url(review), headers={**bob, "If-Match": "*"})

        assert_problem(refused, 403, "review-not-yours")
        bare = client.delete(url(review), headers=merchandiser)
        assert_problem(bare, 428, "version-required")
        gone = client.delete(url(review), headers={**merchandiser, "If-Match": "*"})
        assert gone.status_code == 204

    def test_happens_with_the_product(self, client, make, published, admin):
        product = make()
        review = published(about=product)

        client.delete(
            f"{PRODUCTS}/{product['id']}?permanently=true",
            headers={**admin, "If-Match": "*"},
        )

        answer = client.get(url(review), headers=review["who"])
        assert answer.status_code == 404


class TestMetrics:
    def test_count_what_was_done_once(self, client, product, write, moderate, risen):
        review = write()
        again = {**review["who"], "Idempotency-Key": "one"}
        moderate(moderate(review), "reject", note="Not about the product.")
        change = client.patch(
            url(review), json={"rating": 1}, headers={**review["who"], "If-Match": "*"}
        )
        client.delete(url(review), headers={**review["who"], "If-Match": "*"})
        for _ in range(2):
            client.post(under(product), json=GOOD, headers=again)

        assert change.status_code == 200
        found = {
            outcome: risen("flagon_reviews_total", outcome=outcome)
            for outcome in ("written", "published", "rejected", "changed", "deleted")
        }
        assert found == {
            "written": 2,
            "published": 1,
            "rejected": 1,
            "changed": 1,
            "deleted": 1,
        }


class TestModeration:
    def test_publishes_and_rejects(self, client, product, write, moderate, rating):
        review = moderate(write(rating=2))
        assert client.get(url(review)).json["rating"] == 2
        assert rating(product) == {"count": 1, "average": 2}

        rejected = moderate(review, "reject", note="Not about the product.")

        assert client.get(url(review)).status_code == 404
        assert rating(product) == {"count": 0, "average": None}
        seen = client.get(url(review), headers=review["who"]).json
        assert (seen["state"], seen["note"]) == ("rejected", "Not about the product.")
        assert moderate(rejected)["note"] is None

    def test_can_be_repeated(self, write, moderate, sent):
        review = moderate(write())
        told = len(sent())

        again = moderate(review)

        assert again["version"] == review["version"]
        assert len(sent()) == told

    def test_never_publishes_what_the_moderator_has_not_read(
        self, client, write, merchandiser, assert_problem
    ):
        review = write()
        client.patch(
            url(review),
            json={"body": "Something else."},
            headers={**review["who"], "If-Match": "*"},
        )

        for headers, status in (
            ({"If-Match": review["etag"]}, 412),
            ({}, 428),
        ):
            answer = client.post(
                f"{url(review)}/publish", headers={**merchandiser, **headers}
            )
            assert_problem(answer, status)
        assert client.get(url(review)).status_code == 404

    @pytest.mark.parametrize("action", ["publish", "reject"])
    def test_needs_the_scope(self, client, write, assert_problem, action):
        review = write()

        answer = client.post(
            f"{url(review)}/{action}",
            json={"note": "x"},
            headers={**review["who"], "If-Match": "*"},
        )

        assert_problem(answer, 403, "scope-missing")

    @pytest.mark.parametrize("body", [{}, {"note": ""}, {"note": " "}, {"note": None}])
    def test_says_why_it_rejects(
        self, client, write, merchandiser, assert_problem, body
    ):
        answer = client.post(
            f"{url(write())}/reject",
            json=body,
            headers={**merchandiser, "If-Match": "*"},
        )

        assert_problem(answer, 422, "invalid-request")


class TestEvents:
    @pytest.fixture
    def told(self, sent):
        """Events as (end of the type, topics, data), the newest since the call before."""
        seen = 0

        def told(review):
            nonlocal seen
            found = sent(review["id"])
            new, seen = found[seen:], len(found)
            return [
                (
                    event["type"].removeprefix("market.flagon.review."),
                    event["topics"],
                    event["data"],
                )
                for event in new
            ]

        return told

    def test_tell_strangers_of_published_ones_alone(
        self, client, product, write, moderate, told
    ):
        review = write(body="Secret until read.")
        own, public = f"users/{review['subject']}", f"products/{product['id']}"

        ((kind, topics, data),) = told(review)
        assert (kind, topics) == ("changed.v1", [own])
        assert (data["state"], data["body"]) == ("pending", "Secret until read.")
        assert "body" in data["changed"]

        review = moderate(review)
        mine, theirs = told(review)
        assert mine[:2] == ("changed.v1", [own])
        assert mine[2]["changed"] == ["state"]
        assert theirs[:2] == ("changed.v1", [public])
        assert theirs[2]["subject"] is theirs[2]["note"] is None
        assert "body" in theirs[2]["changed"]

        moderate(review, "reject", note="Rude.")
        mine, theirs = told(review)
        assert mine[2]["note"] == "Rude."
        assert theirs == (
            "deleted.v1",
            [public],
            {"id": review["id"], "product_id": product["id"]},
        )

        client.delete(url(review), headers={**review["who"], "If-Match": "*"})
        assert [event[:2] for event in told(review)] == [("deleted.v1", [own])]

    def test_name_an_author_to_nobody_else(self, write, moderate, sent, product):
        review = moderate(write())
        for event in sent():
            if f"users/{review['subject']}" not in event["topics"]:
                assert review["subject"] not in str(event)

    def test_tell_of_the_new_rating(self, product, published, sent):
        published(rating=5)

        event = sent(product["id"])[-1]

        assert event["type"].endswith("product.changed.v1")
        assert event["data"]["changed"] == ["rating"]
        assert event["data"]["rating"] == {"count": 1, "average": 5}
        assert event["data"]["version"] == product["version"]


class TestForgetSubject:
    def test_deletes_all_that_an_account_wrote(
        self, app, client, make, product, published, write, rating, ada, sent
    ):
        other = make()
        mine = [published(ada, rating=1), write(ada, other)]
        published(rating=5)
        runner = app.test_cli_runner()

        first, again = (
            runner.invoke(args=["reviews", "forget", ada["X-Sub"]]) for _ in range(2)
        )

        assert (first.output, again.output) == (
            "2 reviews are gone.\n",
            "0 reviews are gone.\n",
        )
        assert client.get(REVIEWS, headers=ada).json["items"] == []
        assert rating(product) == {"count": 1, "average": 5}
        kinds = [sent(review["id"])[-1]["type"] for review in mine]
        assert kinds == ["market.flagon.review.deleted.v1"] * 2

    def test_takes_accounts_alone(self, app):
        result = app.test_cli_runner().invoke(args=["reviews", "forget", "ada"])

        assert result.exit_code == 2


class TestRenderReviews:
    def test_mends_what_was_made_by_older_code(
        self, app, client, published, session, monkeypatch, sent
    ):
        monkeypatch.setattr(reviews, "_RENDERED_AT_ONCE", 2)
        made = [published() for _ in range(3)]
        session.get(Review, UUID(made[1]["id"])).body_html = "<script>old</script>"
        session.flush()
        runner = app.test_cli_runner()

        first, again = (runner.invoke(args=["reviews", "render"]) for _ in range(2))

        assert (first.output, again.output) == (
            "1 reviews look different.\n",
            "0 reviews look different.\n",
        )
        seen = client.get(url(made[1]))
        assert seen.json["body_html"] == made[1]["body_html"]
        assert seen.headers["ETag"] != made[1]["etag"]
        assert sent(made[1]["id"])[-1]["data"]["changed"] == ["body_html"]
