"""Many products from our own words, and products from a file such as an export."""

import csv
import io
import json
import tracemalloc
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from flagon_catalog import cli, schemas
from flagon_catalog.domain import sheets
from flagon_catalog.domain.assortment import Assortment
from flagon_catalog.domain.cells import exact, harmless
from flagon_catalog.domain.shapes import WHOLE
from flagon_catalog.models import PRODUCT_VIEW, Category, Price, Product
from flagon_chassis.tables import outbox

DATA = json.loads((files("flagon_catalog") / "assortment.json").read_text())
EXPORT = "/api/v1/products/export?format=csv&status=any"
OWN = [
    column.key
    for column in PRODUCT_VIEW
    if column.key not in {"id", "created_at", "updated_at"}
]
HOSTILE = ["=1+1", "'=1", "''", "'", "it's", "@a", "\t=1", "+", "two\r\nlines\rof\n"]

PRODUCT_123 = {
    "sku": "seed-000123",
    "name": "Ingrid's salt debt",
    "description": "Sami Iversen takes us to **Ostermoor**,"
    " where a debt changes a whole year."
    " It begins with a debt and ends with a question.",
    "price_minor": 899,
    "currency": "EUR",
    "status": "active",
    "stock": 111,
    "category": "crime",
    "tags": [],
    "attributes": {
        "author": "Sami Iversen",
        "format": "hardcover",
        "pages": 600,
        "language": "fr",
        "year": 2001,
    },
}


@pytest.fixture
def seed(app):
    """Run the command in the app of the test; return its result."""

    def seed(*options, app=app, **more):
        return app.test_cli_runner().invoke(args=["seed", *options], **more)

    return seed


@pytest.fixture
def load(seed):
    """Load a file; return the result."""

    def load(content, **more):
        content = content if isinstance(content, bytes) else content.encode()
        return seed("--file", "-", input=content, **more)

    return load


@pytest.fixture
def stored(session):
    """A function that returns all products by SKU, and how many rows tell of them."""

    def stored():
        session.expire_all()
        found = {row.sku: row._asdict() for row in session.execute(WHOLE.select())}
        counts = [
            session.scalar(select(func.count()).select_from(table))
            for table in (outbox, Price)
        ]
        return found, counts

    return stored


def summary(created=0, updated=0, unchanged=0, refused=0):
    total = created + updated + unchanged + refused
    return (
        f"{total} products: {created} created, {updated} updated,"
        f" {unchanged} unchanged, {refused} refused; "
    )


class TestAssortment:
    def test_is_the_same_for_the_same_seed(self):
        one, other = Assortment(DATA, 7), Assortment(DATA, 7)

        assert list(one.products(300)) == list(other.products(300))
        assert list(one.products(300)) != list(Assortment(DATA, 8).products(300))

    def test_stays_the_same_from_one_machine_to_the_next(self):
        product = Assortment(DATA, 0).product(123)

        # Whoever changes the words makes other products: on purpose, then.
        assert product == PRODUCT_123

    def test_only_adds_when_it_grows(self):
        assortment = Assortment(DATA, 0)

        assert list(assortment.products(500))[:200] == list(assortment.products(200))

    @pytest.mark.parametrize("seed", [0, 1, -5, 10**30])
    def test_has_products_that_the_catalog_takes(self, seed):
        made = list(Assortment(DATA, seed).products(3000))

        usable, errors = schemas.sift(made)

        assert errors == {}
        assert list(usable.values()) == made

    def test_is_believable(self):
        made = list(Assortment(DATA, 0).products(5000))

        def share(name, value):
            return sum(product[name] == value for product in made) / len(made)

        assert share("status", "active") == pytest.approx(0.94, abs=0.02)
        assert share("currency", "EUR") == pytest.approx(0.91, abs=0.02)
        assert share("stock", 0) == pytest.approx(0.08, abs=0.02)
        assert len({product["name"] for product in made}) > 3500
        for product in made:
            text = product["name"] + product["description"]
            assert not set(text) & set("{}")
            assert product["name"][0].isupper()
            assert 1 <= product["description"].count(". ") + 1 <= 4
            assert product["price_minor"] > 0
            assert product["attributes"]

    def test_puts_something_into_every_lowest_category(self):
        def leaves(tree):
            for slug, category in tree.items():
                yield from leaves(category["in"]) if "in" in category else [slug]

        made = Assortment(DATA, 0).products(3000)

        assert {one["category"] for one in made} == set(leaves(DATA["categories"]))

    def test_reaches_the_millionth_product(self):
        assert Assortment(DATA, 0).product(1_000_000)["sku"] == "seed-1000000"


class TestProducts:
    def test_are_equal_in_two_databases(self, seed, migrated, make_app):
        found = []
        for size in (500, 33):
            app = make_app(migrated())
            with pytest.MonkeyPatch.context() as patch:
                # Nor does it matter how many are written at a time.
                patch.setattr(cli, "BATCH", size)
                assert seed("--products", "700", app=app).exit_code == 0
            with app.extensions["flagon.sessions"]() as session:
                rows = session.execute(WHOLE.select().order_by(Product.sku)).all()
            found.append([[getattr(row, name) for name in OWN] for row in rows])

        assert len(found[0]) == 700
        assert found[0] == found[1]

    def test_grow_by_adding(self, seed, stored):
        seed("--products", "20")
        before, _ = stored()

        result = seed("--products", "50")

        after, _ = stored()
        assert summary(created=30, unchanged=20) in result.stdout
        assert {sku: after[sku] for sku in before} == before
        assert set(after) == {f"seed-{number:06d}" for number in range(1, 51)}

    def test_are_written_once(self, seed, stored):
        first = seed("--products", "60")
        before = stored()

        second = seed("--products", "60")

        assert summary(created=60) in first.stdout
        assert summary(unchanged=60) in second.stdout
        assert stored() == before

    def test_have_an_event_and_a_price_each(self, seed, sent, session):
        seed("--products", "40")

        told = [one for one in sent() if one["type"].endswith("product.changed.v1")]

        assert sorted(one["data"]["sku"] for one in told) == [
            f"seed-{number:06d}" for number in range(1, 41)
        ]
        assert session.scalar(select(func.count()).select_from(Price)) == 40

    def test_stand_in_categories_of_three_levels(self, seed, session):
        seed("--products", "0")

        paths = session.scalars(select(Category.path)).all()

        assert max(map(len, paths)) == 3
        assert ["kitchen", "tableware", "mugs-and-cups"] in paths

    def test_leave_categories_where_their_owner_put_them(
        self, seed, make_category, session
    ):
        make_category(name="Crockery", slug="mugs-and-cups")

        assert seed("--products", "30").exit_code == 0

        mugs = session.scalar(select(Category).where(Category.slug == "mugs-and-cups"))
        assert (mugs.name, mugs.path) == ("Crockery", ["mugs-and-cups"])

    def test_are_put_back_as_they_were(self, seed, client, merchandiser, stored):
        seed("--products", "5")
        before, _ = stored()
        path = f"/api/v1/products/{before['seed-000001']['id']}"
        changed = client.patch(
            path, json={"name": "Other"}, headers={**merchandiser, "If-Match": "*"}
        )
        assert changed.status_code == 200, changed.text

        result = seed("--products", "5")

        after, _ = stored()
        assert summary(updated=1, unchanged=4) in result.stdout
        assert after["seed-000001"]["name"] == before["seed-000001"]["name"]

    def test_of_which_something_is_held_are_refused(
        self, seed, stored, client, merchandiser
    ):
        seed("--products", "5", "--random-seed", "1")
        found, _ = stored()
        # The other seed has less of one of them.
        less = next(
            one["sku"]
            for one in Assortment(DATA, 0).products(5)
            if one["stock"] < found[one["sku"]]["stock"]
            and found[one["sku"]]["status"] == "active"
        )
        answer = client.post(
            f"/api/v1/products/{found[less]['id']}/reservations",
            json={"quantity": found[less]["stock"]},
            headers=merchandiser,
        )
        assert answer.status_code == 201, answer.text

        result = seed("--products", "5")

        assert result.exit_code == 1
        assert f"{less}: stock: " in result.stderr
        assert summary(updated=4, refused=1) in result.stdout

    def test_say_how_far_they_are(self, seed, monkeypatch):
        monkeypatch.setattr(cli, "BATCH", 10)
        monkeypatch.setattr(cli, "PROGRESS", 20)

        lines = seed("--products", "50").stderr.splitlines()

        assert [line.split(",")[0] for line in lines] == [
            "20 of 50 products",
            "40 of 50 products",
        ]
        assert all(line.endswith(" a second.") for line in lines)

    @pytest.mark.parametrize(
        "options",
        [
            ["--products", "-1"],
            ["--products", "1000001"],
            ["--products", "many"],
            ["--random-seed", "1"],
            ["--products", "1", "--file", "-"],
            ["--file", "/nowhere/at/all.csv"],
        ],
    )
    def test_are_refused_for_unclear_options(self, seed, options, stored):
        assert seed(*options).exit_code == 2
        assert stored()[0] == {}


class TestExact:
    @given(st.text() | st.text(alphabet="'=+-@\t\r\na", max_size=8))
    def test_undoes_harmless(self, text):
        assert exact(harmless(text)) == text


class TestFile:
    def test_that_is_an_export_changes_nothing(
        self, seed, load, make, client, merchandiser, stored
    ):
        seed("--products", "100")
        for number, text in enumerate(HOSTILE):
            make(
                name=f"'=+ {text.strip() or 'x'}".replace("\r", " ").replace("\n", " "),
                description=text,
                status=("draft", "active", "archived")[number % 3],
                tags=[],
                attributes={text: [text, 1.5, None, {"größe": True}], "n": 2**53 - 1},
            )
        before = stored()
        answer = client.get(EXPORT, headers=merchandiser)

        result = load(answer.get_data())

        assert result.exit_code == 0, result.output
        assert summary(unchanged=100 + len(HOSTILE)) in result.stdout
        assert "Ignored columns: id, slug, available, rating, version" in result.stderr
        assert stored() == before

    def test_that_is_an_export_fills_an_empty_shop(
        self, seed, client, merchandiser, migrated, make_app
    ):
        seed("--products", "60")
        content = client.get(EXPORT, headers=merchandiser).get_data()
        other = make_app(migrated())

        result = seed("--file", "-", app=other, input=content)

        assert summary(created=60) in result.stdout
        again = other.test_client().get(EXPORT, headers=merchandiser).get_data()
        first, second = (
            {row["sku"]: row for row in csv.DictReader(io.StringIO(part.decode()))}
            for part in (content, again)
        )
        for name in ("name", "description", "price_minor", "tags", "attributes"):
            assert {sku: row[name] for sku, row in first.items()} == {
                sku: row[name] for sku, row in second.items()
            }

    def test_can_be_a_path(self, seed, tmp_path, stored):
        path = tmp_path / "products.csv"
        path.write_text("sku,name,price_minor\na,A,100\n")

        assert seed("--file", str(path)).exit_code == 0
        assert set(stored()[0]) == {"a"}

    def test_changes_what_it_names_alone(self, load, make, stored):
        make(sku="a", name="A", stock=3, description="D", tags=[], category=None)

        result = load("name,sku,stock,description\n,a,,\n")

        product = stored()[0]["a"]
        assert summary(updated=1) in result.stdout
        assert (product["name"], product["stock"]) == ("A", 3)
        assert product["description"] == ""

    def test_takes_a_category_away_with_an_empty_cell(
        self, load, make, make_category, stored
    ):
        make_category(name="Kitchen", slug="kitchen")
        make(sku="a", category="kitchen")

        load("sku,category\na,\n")

        assert stored()[0]["a"]["category"] is None

    def test_handles_a_sku_that_occurs_twice_in_order(self, load, stored):
        result = load("sku,name,price_minor\na,A,1\na,B,2\n")

        assert summary(created=1, updated=1) in result.stdout
        assert stored()[0]["a"]["name"] == "B"

    def test_says_which_rows_are_refused_and_writes_the_others(self, load, stored):
        rows = [
            "sku,name,price_minor,status,tags,attributes",
            "good-1,Good,100,,,",
            '"a\nb",Name,1,,,',
            "b,B,1.5,,,",
            "c,C,-1,,,",
            "d,D,1,gone,,",
            "e,E,1,,a b,",
            'f,F,1,,"[""A""]",',
            "g,G,1,,,{",
            "h,H,1",
            "i,,,,,",
            '"j"x,J,1,,,',
            ",K,1,,,",
            "",
            f"l,L,{'9' * 5000},,,",
            f"m,M,1,,,{'[' * 200_000}",
            'n,N,1,,,"{""a"": NaN}"',
            "good-2,Good,100,,,",
        ]

        result = load("\n".join(rows))

        told = dict(
            line.removeprefix("Line ").split(": ", 1)
            for line in result.stderr.splitlines()
        )
        assert result.exit_code == 1
        # The SKU with a line end in it begins in line 3 and ends in line 4.
        assert list(told) == [str(line) for line in (3, *range(5, 15), *range(16, 19))]
        assert told["3"].startswith("sku: ")
        assert told["5"] == "price_minor is not a whole number."
        assert told["6"].startswith("price_minor: ")
        assert told["7"].startswith("status: ")
        assert told["8"] == "tags is not valid JSON."
        assert told["9"].startswith("tags/0: ")
        assert told["10"] == "attributes is not valid JSON."
        assert told["11"] == "It has 3 cells, the header has 6."
        assert told["12"] == (
            "name: A new product needs it. price_minor: A new product needs it."
        )
        assert told["13"].startswith("It is not valid CSV: ")
        assert told["14"] == "It has no sku."
        assert told["16"] == "price_minor is not a whole number."
        assert told["17"] == "attributes is not valid JSON."
        assert told["18"].startswith("attributes: ")
        assert summary(created=2, refused=14) in result.stdout
        assert set(stored()[0]) == {"good-1", "good-2"}


class TestHostileFile:
    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (b"b,B\0B,1", "name: Text may not hold control characters."),
            (b"b\0,B,1", "sku: "),
            (b"b,B\xff,1", "name is not UTF-8."),
            (b"b,\xed\xa0\x80,1", "name is not UTF-8."),
            (b"b," + b"x" * 1_000_000 + b",1", "name: "),
            (b"\x1b[31mb,B,1", "sku: "),
        ],
    )
    def test_loses_its_bad_rows_alone(self, load, stored, row, reason):
        result = load(b"sku,name,price_minor\na,A,1\n" + row + b"\nc,C,1\n")

        assert result.exit_code == 1
        assert result.stderr.startswith(f"Line 3: {reason}")
        assert "\x1b" not in result.output
        assert len(result.stderr) < 500
        assert set(stored()[0]) == {"a", "c"}

    def test_with_more_text_than_the_search_takes_loses_that_row_alone(
        self, load, stored
    ):
        words = [" ".join(f"w{at}x{n}" for n in range(500)) for at in range(450)]
        sheet = io.StringIO()
        writer = csv.writer(sheet)
        writer.writerow(["sku", "name", "price_minor", "attributes"])
        for sku, attributes in (("a", {}), ("b", {"words": words}), ("c", {})):
            writer.writerow([sku, sku, 1, json.dumps(attributes)])

        result = load(sheet.getvalue())

        assert result.exit_code == 1
        assert result.stderr == (
            "Line 3: A product has more words than the search can hold.\n"
        )
        assert summary(created=2, refused=1) in result.stdout
        assert set(stored()[0]) == {"a", "c"}

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "`sku` must be one. It names nothing."),
            (b"a-1,First,100\n", "It names a-1, First, 100."),
            (b"sku;name;price_minor\na;A;1\n", "It names sku;name;price_minor."),
            ("sku,name\na,A\n".encode("utf-16"), "`sku` must be one."),
            (b"\x1b[31m,name\n", "It names \\x1b[31m, name."),
            (b'"sku\nname\n', "The header cannot be read"),
            (b",".join([b"c" * 500] * 5000), " more."),
            (b"sku,sku\na,b\n", "Two columns are called sku."),
            (b"\0\0\0\n", "`sku` must be one."),
        ],
    )
    def test_without_a_header_is_refused(self, load, stored, content, reason):
        result = load(content)

        assert result.exit_code == 1
        assert reason in result.stderr
        assert len(result.stderr) < 2000
        assert stored()[0] == {}

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_may_have_a_mark_and_any_line_ends(self, load, stored, mark, end):
        result = load(mark + end.join([b"sku,name,price_minor", b"a,\xc3\x84,1", b""]))

        assert result.exit_code == 0, result.output
        assert stored()[0]["a"]["name"] == "Ä"

    def test_with_a_quotation_mark_that_is_never_closed_says_where(self, load, stored):
        result = load('sku,name,price_minor\na,A,1\nb,"B,1\nc,C,1\n')

        assert result.exit_code == 1
        assert "Line 3 opens a quotation mark that is never closed." in result.stderr
        assert "Not all was written." in result.stderr
        assert summary(created=1) in result.stdout
        assert set(stored()[0]) == {"a"}

    def test_with_a_row_without_end_is_not_read_to_its_end(
        self, load, stored, monkeypatch
    ):
        monkeypatch.setattr(sheets, "ROW_CHARS_MAX", 5000)
        quoted = 'b,"' + "x\n" * 3000

        for row in (quoted, "b," + "x" * 6000):
            result = load(f"sku,name,price_minor\na,A,1\n{row},1\nc,C,1\n")

            assert result.exit_code == 1
            assert "begins in line 3 is longer than 5000 characters" in result.stderr
            assert set(stored()[0]) == {"a"}


class TestMemory:
    def test_of_a_large_file_is_that_of_a_small_one(
        self, seed, migrated, make_app, tmp_path
    ):
        app = make_app(migrated())
        most = []
        for rows in (500, 1000, 8000):
            path = tmp_path / f"{rows}.csv"
            with path.open("w") as file:
                file.write("sku,name,price_minor,description\n")
                file.writelines(
                    f"m-{rows}-{number},M {number},1,{'word ' * 400}\n"
                    for number in range(rows)
                )
            tracemalloc.start()
            try:
                result = seed("--file", str(path), app=app)
                most.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            assert summary(created=rows) in result.stdout

        # The first loads what is loaded once. The last is 16 MB.
        assert most[2] < most[1] * 1.25
