"""What reviews add up to on a product: exact, and no edit of the product."""

from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Barrier
from uuid import uuid4

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from flagon_catalog.domain import products, reviews
from flagon_catalog.models import Product, Review
from flagon_chassis.tables import outbox

from .conftest import wait_until_blocked

PRODUCTS = "/api/v1/products"
REVIEWS = "/api/v1/reviews"
WAIT = 20


@pytest.fixture
def together():
    """Call a function once for each argument, all at the same moment."""

    def together(function, arguments):
        barrier = Barrier(len(arguments))

        def start(argument):
            barrier.wait(WAIT)
            return function(argument)

        with ThreadPoolExecutor(len(arguments)) as pool:
            return list(pool.map(start, arguments))

    return together


@pytest.fixture
def real_client(real_app):
    return real_app.test_client


@pytest.fixture
def at_once(real_app, monkeypatch):
    """Publish reviews as they are written."""
    changed = real_app.extensions["flagon.settings"].model_copy(
        update={"reviews_moderated": False}
    )
    monkeypatch.setitem(real_app.extensions, "flagon.settings", changed)


@pytest.fixture
def product(real_client, merchandiser, new_product):
    answer = real_client().post(PRODUCTS, json=new_product(), headers=merchandiser)
    return {**answer.json, "etag": answer.headers["ETag"]}


@pytest.fixture
def write(real_client, bearer, product):
    def write(stars, headers=None, about=None):
        return real_client().post(
            f"{PRODUCTS}/{(about or product)['id']}/reviews",
            json={"author": "A", "rating": stars, "title": "T"},
            headers=headers or bearer("reviews:write"),
        )

    return write


@pytest.fixture
def sums(real_sessions):
    """What stands on a product's row, and what a query over its reviews says."""

    def sums(product):
        with real_sessions() as session:
            kept = session.execute(
                select(Product.rating_count, Product.rating_sum).where(
                    Product.id == product["id"]
                )
            ).one()
            counted = session.execute(
                select(func.count(), func.coalesce(func.sum(Review.rating), 0)).where(
                    Review.product_id == product["id"], Review.state == "published"
                )
            ).one()
        return tuple(kept), tuple(counted)

    return sums


class TestRating:
    def test_of_nothing_is_no_average(self, product):
        assert product["rating"] == {"count": 0, "average": None}

    @pytest.mark.usefixtures("at_once")
    def test_is_the_mean_to_two_decimals(self, real_client, write, product):
        for stars in (5, 4, 4):
            write(stars)

        shown = real_client().get(f"{PRODUCTS}/{product['id']}").json

        assert shown["rating"] == {"count": 3, "average": 4.33}
        (listed,) = real_client().get(f"{PRODUCTS}?sku={product['sku']}").json["items"]
        assert listed["rating"] == shown["rating"]

    @pytest.mark.usefixtures("at_once")
    def test_stays_when_the_product_is_edited(
        self, real_client, real_sessions, write, product, merchandiser
    ):
        write(2)
        url, rating = f"{PRODUCTS}/{product['id']}", {"count": 1, "average": 2}

        patched = real_client().patch(
            url, json={"stock": 3}, headers={**merchandiser, "If-Match": "*"}
        )
        bulk = real_client().post(
            f"{PRODUCTS}/bulk",
            json={"items": [{"sku": product["sku"], "stock": 4}]},
            headers=merchandiser,
        )

        assert patched.json["rating"] == rating
        assert bulk.json["summary"]["updated"] == 1
        assert real_client().get(url).json["rating"] == rating
        with real_sessions() as session:
            bodies = session.scalars(
                select(outbox.c.body)
                .where(outbox.c.subject == product["id"])
                .order_by(outbox.c.sequence)
            ).all()
        assert [body["data"]["rating"] for body in bodies[-3:]] == [rating] * 3

    @pytest.mark.parametrize(
        "change", ["rating_count = 1", "rating_sum = 6, rating_count = 1"]
    )
    def test_cannot_be_impossible(self, real_sessions, product, change):
        with pytest.raises(IntegrityError), real_sessions.begin() as session:
            session.execute(
                text(f"update product set {change} where id = :id"),
                {"id": product["id"]},
            )


@pytest.mark.usefixtures("at_once")
class TestEntityTag:
    def test_changes_with_the_rating_and_the_version_does_not(
        self, real_client, write, product
    ):
        url = f"{PRODUCTS}/{product['id']}"
        write(5)

        seen = real_client().get(url, headers={"If-None-Match": product["etag"]})

        assert seen.status_code == 200
        assert seen.headers["ETag"] != product["etag"]
        assert (seen.json["version"], seen.json["updated_at"]) == (
            1,
            product["updated_at"],
        )
        again = real_client().get(url, headers={"If-None-Match": seen.headers["ETag"]})
        assert again.status_code == 304

    def test_of_before_a_review_still_allows_an_edit(
        self, real_client, write, product, merchandiser
    ):
        write(5)

        answer = real_client().patch(
            f"{PRODUCTS}/{product['id']}",
            json={"stock": 1},
            headers={**merchandiser, "If-Match": product["etag"]},
        )

        assert answer.status_code == 200
        assert answer.json["version"] == 2

    def test_of_before_an_edit_allows_none(
        self, real_client, write, product, merchandiser, assert_problem
    ):
        url = f"{PRODUCTS}/{product['id']}"
        real_client().patch(
            url, json={"stock": 1}, headers={**merchandiser, "If-Match": "*"}
        )
        write(5)

        answer = real_client().patch(
            url,
            json={"stock": 2},
            headers={**merchandiser, "If-Match": product["etag"]},
        )

        current = assert_problem(answer, 412, "version-stale")["current"]
        assert f'"{current}"' == real_client().get(url).headers["ETag"]


class TestAtOnce:
    def test_one_of_32_equal_submissions_wins(
        self, together, write, product, bearer, sums
    ):
        ada = bearer("reviews:write", sub=str(uuid4()))

        answers = together(lambda _: write(4, ada), range(32))

        assert sorted(answer.status_code for answer in answers) == [201, *[409] * 31]
        (won,) = [answer for answer in answers if answer.status_code == 201]
        links = {a.json["review"] for a in answers if a.status_code == 409}
        assert links == {won.headers["Location"]}
        assert sums(product) == ((0, 0), (0, 0))

    @pytest.mark.usefixtures("at_once")
    def test_every_review_counts_once(self, together, write, product, sums):
        stars = [1 + number % 5 for number in range(24)]

        answers = together(write, stars)

        assert {answer.status_code for answer in answers} == {201}
        assert sums(product) == ((24, sum(stars)), (24, sum(stars)))

    @pytest.mark.usefixtures("at_once")
    def test_all_ways_to_change_them_keep_the_sums(
        self,
        together,
        real_client,
        write,
        product,
        new_product,
        bearer,
        merchandiser,
        sums,
        real_app,
        real_sessions,
    ):
        """Two products, writers of every kind, and nobody waits in a circle."""
        other = real_client().post(PRODUCTS, json=new_product(), headers=merchandiser)
        pair = (product, other.json)

        def moderate(review, action, **body):
            real_client().post(
                f"{REVIEWS}/{review['id']}/{action}",
                json=body or None,
                headers={**merchandiser, "If-Match": "*"},
            )

        def live(seed):
            random, statuses = Random(seed), []
            sub = str(uuid4())
            me = bearer("reviews:write", sub=sub)
            for number in range(6):
                about = pair[(seed + number) % 2]
                answer = write(random.randint(1, 5), me, about)
                statuses.append(answer.status_code)
                if answer.status_code != 201:
                    continue
                review = answer.json
                url = f"{REVIEWS}/{review['id']}"
                match random.randrange(5):
                    case 0:
                        statuses.append(
                            real_client()
                            .delete(url, headers={**me, "If-Match": "*"})
                            .status_code
                        )
                    case 1:
                        moderate(review, "reject", note="n")
                    case 2:
                        moderate(review, "reject", note="n")
                        moderate(review, "publish")
                    case 3:
                        statuses.append(
                            real_client()
                            .patch(
                                url,
                                json={"rating": random.randint(1, 5)},
                                headers={**me, "If-Match": "*"},
                            )
                            .status_code
                        )
                    case 4:
                        with (
                            real_app.test_request_context(),
                            real_sessions.begin() as session,
                        ):
                            reviews.forget_subject(session, review["subject"])
            return statuses

        def edit(seed):
            for number in range(6):
                items = [{"sku": p["sku"], "stock": number} for p in pair]
                answer = real_client().post(
                    f"{PRODUCTS}/bulk",
                    json={"items": items[:: 1 if seed % 2 else -1]},
                    headers=merchandiser,
                )
                assert answer.status_code == 200
            return []

        found = together(
            lambda seed: live(seed) if seed < 10 else edit(seed), range(12)
        )

        statuses = {status for answers in found for status in answers}
        assert statuses <= {200, 201, 204, 409}
        for about in pair:
            kept, counted = sums(about)
            assert kept == counted
            shown = real_client().get(f"{PRODUCTS}/{about['id']}").json["rating"]
            count, total = counted
            average = None if count == 0 else pytest.approx(total / count, abs=0.006)
            assert shown == {"count": count, "average": average}

    @pytest.mark.usefixtures("at_once")
    def test_one_of_many_edits_of_a_version_wins(
        self, together, real_client, write, product, bearer, sums
    ):
        me = bearer("reviews:write", sub=str(uuid4()))
        made = write(1, me)

        answers = together(
            lambda stars: real_client().patch(
                made.headers["Location"],
                json={"rating": stars},
                headers={**me, "If-Match": made.headers["ETag"]},
            ),
            [2, 3, 4, 5],
        )

        assert sorted(a.status_code for a in answers) == [200, 412, 412, 412]
        (won,) = [a.json["rating"] for a in answers if a.status_code == 200]
        assert sums(product) == ((1, won), (1, won))

    @pytest.mark.usefixtures("at_once")
    def test_deleting_the_product_meanwhile_harms_nobody(
        self, together, real_client, write, new_product, bearer, merchandiser, admin
    ):
        for _ in range(4):
            product = real_client().post(
                PRODUCTS, json=new_product(), headers=merchandiser
            )
            me = bearer("reviews:write", sub=str(uuid4()))
            made = write(3, me, product.json)
            calls = [
                lambda product=product: real_client().delete(
                    product.headers["Location"] + "?permanently=true",
                    headers={**admin, "If-Match": "*"},
                ),
                lambda product=product: write(4, None, product.json),
                lambda made=made, me=me: real_client().patch(
                    made.headers["Location"],
                    json={"rating": 1},
                    headers={**me, "If-Match": "*"},
                ),
            ]

            gone, new, edited = together(lambda call: call(), calls)

            assert gone.status_code == 204
            assert new.status_code in {201, 404}
            assert edited.status_code in {200, 404}
            again = real_client().get(made.headers["Location"], headers=me)
            assert again.status_code == 404

    @pytest.mark.usefixtures("at_once")
    @pytest.mark.parametrize("what", ["review", "product"])
    def test_what_goes_while_an_edit_waits_is_not_found(
        self,
        real_app,
        real_client,
        real_sessions,
        write,
        product,
        bearer,
        assert_problem,
        what,
    ):
        me = bearer("reviews:write", sub=str(uuid4()))
        made = write(3, me)

        def edit():
            return real_client().patch(
                made.headers["Location"],
                json={"rating": 1},
                headers={**me, "If-Match": "*"},
            )

        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            locked = products.lock_product(session, id=product["id"])
            waiting = pool.submit(edit)
            # The edit has seen the review and now waits for the product.
            wait_until_blocked(session)
            if what == "product":
                products.delete_product(session, locked)
            else:
                reviews.forget_subject(session, made.json["subject"])
            session.commit()
            answer = waiting.result(WAIT)

        assert_problem(answer, 404, "review-not-found")
