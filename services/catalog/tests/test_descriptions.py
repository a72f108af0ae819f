"""Descriptions in Markdown: shown as HTML that can do no harm, however they came in."""

import json
from time import process_time
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, select, update

from flagon_catalog import cli
from flagon_catalog.domain import markup
from flagon_catalog.domain.markup import article_of
from flagon_catalog.models import Product
from flagon_chassis.tables import audit

from .conftest import PRODUCTS
from .test_review_attacks import PAYLOADS, Elements

ALLOWED = {
    *("p", "br", "em", "strong", "a", "ul", "ol", "li", "h3", "h4", "h5", "h6"),
    *("blockquote", "pre", "code", "hr"),
}
ATTACKS = [
    *PAYLOADS,
    "[x](mailto:a@b.test?body=%22%3E%3Cscript%3E)",
    "[x](mailto:a@b.test '\"><script>alert(1)</script>')",
    "<h1 onclick=alert(1)>x</h1>",
    "# <script>alert(1)</script>",
    "# x {onclick=alert(1)}",
    "###### [x](javascript:alert(1))",
    "Plain text, with nothing in it <b>",
    "a" + "<b>" * 2000,
    "[" * 2000 + "<script>alert(1)</script>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<xmp><script>alert(1)</script></xmp>",
    "<form action=//evil.test><button>x</button></form>",
    "<base href=//evil.test>",
    "<meta http-equiv=refresh content='0;url=//evil.test'>",
    "<a href=https://a.test target=_blank>x</a>",
    "{{ 7 * 7 }} {% raw %}",
    "\ufeff<script>alert(1)</script>",
]


def url(product):
    return f"{PRODUCTS}/{product['id']}"


def harmless(html):
    """Check what a browser would make of it."""
    for tag, attributes in Elements(html).found:
        assert tag in ALLOWED
        assert set(attributes) <= {"href", "rel", "start"}
        if "href" in attributes:
            assert attributes["href"].startswith(("https://", "http://", "mailto:"))
        if tag == "a":
            assert attributes["rel"] == "nofollow noopener"
    assert not set(html) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2069")


def by_post(client, headers, product, description, new):
    made = client.post(PRODUCTS, json=new(description=description), headers=headers)
    assert made.status_code == 201, made.text
    assert made.json["description_html"] == article_of(description)
    return made.json


def by_put(client, headers, product, description, new):
    body = {**new(description=description), "sku": product["sku"]}
    answer = client.put(url(product), json=body, headers={**headers, "If-Match": "*"})
    assert answer.json["description_html"] == article_of(description)
    return product


def by_patch(client, headers, product, description, new):
    answer = client.patch(
        url(product),
        json={"description": description},
        headers={**headers, "If-Match": "*"},
    )
    assert answer.json["description_html"] == article_of(description)
    return product


def by_bulk(client, headers, product, description, new):
    items = [{"sku": product["sku"], "description": description}]
    answer = client.post(f"{PRODUCTS}/bulk", json={"items": items}, headers=headers)
    assert answer.json["summary"]["updated"] == 1
    return product


def by_bulk_made(client, headers, product, description, new):
    item = new(description=description)
    client.post(f"{PRODUCTS}/bulk", json={"items": [item]}, headers=headers)
    return client.get(f"{PRODUCTS}/by-sku/{item['sku']}").json


def by_lines(client, headers, product, description, new):
    line = json.dumps({"sku": product["sku"], "description": description})
    answer = client.post(
        f"{PRODUCTS}/bulk/lines",
        data=line,
        content_type="application/x-ndjson",
        headers=headers,
    )
    assert b'"updated":1' in answer.data
    return product


def by_file(client, headers, product, description, new):
    cell = '"' + description.replace('"', '""') + '"'
    sheet = f"sku,description\n{product['sku']},{cell}\n"
    runner = client.application.test_cli_runner()
    done = runner.invoke(cli.seed, ["--file", "-"], input=sheet.encode())
    assert done.exit_code == 0, done.output
    return product


WAYS = [by_post, by_put, by_patch, by_bulk, by_bulk_made, by_lines, by_file]


class TestAttacks:
    @pytest.mark.parametrize("attack", ATTACKS)
    def test_become_harmless(self, attack):
        harmless(article_of(attack))

    @pytest.mark.parametrize("way", WAYS)
    def test_become_harmless_however_they_come_in(
        self, client, make, merchandiser, new_product, way
    ):
        for attack in ATTACKS:
            product = make()
            # A cell of a sheet has no control characters, and no blanks at its ends.
            if way is by_file and (attack != attack.strip() or attack[0] in "\t\ufeff"):
                continue

            changed = way(client, merchandiser, product, attack, new_product)

            shown = client.get(url(changed)).json
            harmless(shown["description_html"])
            assert shown["description_html"] == article_of(shown["description"])

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
    def test_html_of_ones_own_is_refused(
        self, client, make, merchandiser, new_product, method, assert_problem
    ):
        product = make()
        body = {"description_html": "<script>"}
        if method != "PATCH":
            body |= new_product()

        answer = client.open(
            PRODUCTS if method == "POST" else url(product),
            method=method,
            json=body,
            headers={**merchandiser, "If-Match": "*"},
        )

        assert_problem(answer, 422)

    def test_html_of_ones_own_is_refused_in_bulk(
        self, client, merchandiser, new_product
    ):
        item = new_product(description_html="<script>")

        answer = client.post(
            f"{PRODUCTS}/bulk", json={"items": [item]}, headers=merchandiser
        )

        assert answer.json["summary"]["refused"] == 1

    @pytest.mark.parametrize(
        "part",
        [
            *("[", "]", "![", "*a ", "*_", "a**b", ">", "> ", "`", "[a](", "<", "&#"),
            *("- ", "# ", "[a]: b\n", "1. ", "\\", "***a", "`a``b", "a\n"),
        ],
    )
    def test_end_soon_whatever_is_repeated(self, part):
        began = process_time()

        harmless(article_of((part * 20_000)[:20_000]))

        # What grows with the square of the length takes minutes.
        assert process_time() - began < 5


class TestArticle:
    def test_shows_what_shops_write(self):
        text = (
            "# A\n\n### B\n\n###### C\n\nD *e* **f** `g`\nh\n\n"
            "- [i](https://j.test)\n\n> k\n\n1. l\n\n[m](mailto:n@o.test)"
        )

        html = article_of(text)

        assert html.startswith("<h3>A</h3>\n<h5>B</h5>\n<h6>C</h6>\n<p>D <em>e</em>")
        assert "<br>\nh</p>" in html
        assert '<a href="mailto:n@o.test" rel="nofollow noopener">m</a>' in html
        assert {tag for tag, _ in Elements(html).found} == ALLOWED - {"h4", "pre", "hr"}

    @pytest.mark.parametrize("text", ["", " ", "\n\n", "\u202e"])
    def test_of_nothing_is_nothing(self, text):
        assert article_of(text) in {"", "<p></p>"}

    @given(st.text(alphabet="aZ09éßñ中\u0301 ,.;:!?'\"/%()-", max_size=30))
    def test_takes_no_short_cut_that_shows(self, text):
        slow = markup._SAFE_ARTICLE.clean(markup._ARTICLE.render(text)).strip()

        assert article_of(text) == slow

    @given(st.text(max_size=60))
    def test_is_harmless_whatever_it_is(self, text):
        harmless(article_of(text))


class TestShown:
    def test_with_one_product_and_not_in_lists(self, client, make):
        product = make(description="*A*")
        html = "<p><em>A</em></p>"

        for path in (
            url(product),
            f"{PRODUCTS}/by-sku/{product['sku']}",
            f"{PRODUCTS}/by-slug/{product['slug']}",
        ):
            shown = client.get(path).json
            assert shown["description_html"] == html
            names = list(shown)
            assert names.index("description_html") == names.index("description") + 1
        listed = client.get(f"{PRODUCTS}?sku={product['sku']}").json["items"]
        assert "description_html" not in listed[0]

    def test_where_it_is_asked_for(self, client, make):
        product = make(description="*A*")
        query = f"?sku={product['sku']}&fields=name,description_html"

        (item,) = client.get(PRODUCTS + query).json["items"]
        one = client.get(f"{url(product)}?fields=description_html").json

        assert item == {"name": product["name"], **one}
        assert one == {"description_html": "<p><em>A</em></p>"}
        assert "description_html" not in client.get(f"{url(product)}?fields=name").json

    def test_lists_do_not_read_it(self, client, make, session):
        make(description="*A*")
        sent = []

        def note(_connection, _cursor, statement, *_):
            sent.append(statement)

        connection = session.connection()
        event.listen(connection, "before_cursor_execute", note)
        client.get(PRODUCTS)
        event.remove(connection, "before_cursor_execute", note)

        assert sent
        assert "description_html" not in "".join(sent)

    def test_a_change_of_something_else_leaves_it(
        self, client, make, merchandiser, session
    ):
        product = make(description="*A*")
        client.post(
            f"{PRODUCTS}/bulk",
            json={"items": [{"sku": product["sku"], "stock": 1}]},
            headers=merchandiser,
        )
        client.patch(
            url(product), json={"stock": 2}, headers={**merchandiser, "If-Match": "*"}
        )

        stored = select(Product.description_html).where(Product.id == product["id"])
        assert session.scalar(stored) == "<p><em>A</em></p>"


class TestFromBefore:
    @pytest.fixture
    def old(self, make, session):
        """A product as a release before this one wrote it."""

        def old(html=None, **fields):
            product = make(**fields)
            session.execute(
                update(Product)
                .where(Product.id == product["id"])
                .values(description_html=html)
            )
            return product

        return old

    @pytest.fixture
    def render(self, app):
        def render():
            done = app.test_cli_runner().invoke(cli.products, ["render"])
            assert done.exit_code == 0, done.output
            return int(done.output.split()[0])

        return render

    def test_is_shown_as_if_it_were_made(self, client, old):
        product = old(description="*A*")

        assert client.get(url(product)).json["description_html"] == "<p><em>A</em></p>"
        query = f"?sku={product['sku']}&fields=description_html"
        (item,) = client.get(PRODUCTS + query).json["items"]
        assert item == {"description_html": "<p><em>A</em></p>"}

    def test_stays_so_after_a_bulk_upsert_of_something_else(
        self, client, old, merchandiser
    ):
        product = old(description="*A*")

        client.post(
            f"{PRODUCTS}/bulk",
            json={"items": [{"sku": product["sku"], "stock": 1}]},
            headers=merchandiser,
        )

        assert client.get(url(product)).json["description_html"] == "<p><em>A</em></p>"

    def test_is_made_by_a_command_without_a_new_version(
        self, old, render, session, client, sent
    ):
        products = [old(description=f"*{number}*") for number in range(3)]

        assert render() == 3
        assert render() == 0

        stored = session.scalars(
            select(Product.description_html).order_by(Product.id)
        ).all()
        assert stored == [f"<p><em>{number}</em></p>" for number in range(3)]
        assert all(len(sent(product["id"])) == 1 for product in products)
        assert client.get(url(products[0])).json["version"] == 1

    def test_what_looks_different_is_a_change(self, old, render, session, client, sent):
        product = old("<p>As it was made</p>", description="*A*")

        assert render() == 1

        assert client.get(url(product)).json["version"] == 2
        assert sent(product["id"])[-1]["data"]["changed"] == ["description_html"]
        row = session.execute(
            select(audit).order_by(audit.c.sequence.desc()).limit(1)
        ).one()
        assert (row.version, row.changes) == (2, {"description_html": {}})

    def test_is_made_in_batches(self, old, render, session, client, merchandiser):
        items = [
            {"sku": f"b-{uuid4().hex}", "name": "N", "price_minor": 1}
            for _ in range(450)
        ]
        client.post(f"{PRODUCTS}/bulk", json={"items": items}, headers=merchandiser)
        session.execute(
            update(Product).values(description="*A*", description_html=None)
        )

        assert render() == 450

        left = select(Product.id).where(Product.description_html.is_(None)).limit(1)
        assert session.scalar(left) is None
