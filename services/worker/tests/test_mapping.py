"""Cells become products."""

import pytest

from flagon_worker.domain.mapping import (
    DecimalEvidence,
    Mapper,
    ValueRefused,
    read_price,
    read_whole,
    slug_of,
)

PRICES = [
    # text, decimals, minor units in EUR
    ("12", "auto", 1200),
    ("12.5", "auto", 1250),
    ("12,50", "auto", 1250),
    ("12.500", "comma", 1_250_000),
    ("12,500", "point", 1_250_000),
    ("12,500", "comma", 1250),
    ("1.234,50", "auto", 123_450),
    ("1,234.50", "auto", 123_450),
    ("1'234.50", "auto", 123_450),
    ("1\u2019234,50", "auto", 123_450),
    ("1.234.567", "auto", 123_456_700),
    ("1,234,567.8", "auto", 123_456_780),
    ("1 234,50", "auto", 123_450),
    ("1\u00a0234\u202f567,00", "auto", 123_456_700),
    ("€ 12,99", "auto", 1299),
    ("12,99 €", "auto", 1299),
    ("EUR 12.99", "auto", 1299),
    ("12.99EUR", "auto", 1299),
    ("$0.99", "auto", 99),
    ("0", "auto", 0),
    ("0,1", "auto", 10),
    (" 7 ", "auto", 700),
    ("12,9900", "auto", 1299),
    ("٣", "auto", 300),
]
NO_PRICES = [
    ("free", "not a price"),
    ("-1", "not a price"),
    ("1.23.4", "not a price"),
    ("1,23,456", "not a price"),
    ("12,3,4", "not a price"),
    ("1e3", "not a price"),
    ("NaN", "not a price"),
    ("12 34", "not a price"),
    ("", "not a price"),
    ("1" + " " * 100_000 + "x", "not a price"),
    ("1.234", "thousands or as decimals"),
    ("1,234", "thousands or as decimals"),
    ("12.345,678", "more decimals than EUR"),
    ("99999999999", "more than a price may be"),
]


class TestReadPrice:
    @pytest.mark.parametrize(("text", "decimals", "minor"), PRICES)
    def test_reads(self, text, decimals, minor):
        assert read_price(text, currency="EUR", decimals=decimals) == minor

    @pytest.mark.parametrize(("text", "said"), NO_PRICES)
    def test_refuses(self, text, said):
        with pytest.raises(ValueRefused, match=said) as refusal:
            read_price(text, currency="EUR", decimals="auto")

        assert len(str(refusal.value)) < 200

    @pytest.mark.parametrize(
        ("text", "currency", "minor"),
        [("1200", "JPY", 1200), ("1.5", "KWD", 1500), ("1.50", "USD", 150)],
    )
    def test_knows_the_minor_unit(self, text, currency, minor):
        assert read_price(text, currency=currency, decimals="point") == minor

    def test_refuses_a_fraction_of_the_minor_unit(self):
        with pytest.raises(ValueRefused, match="JPY has"):
            read_price("12.5", currency="JPY", decimals="auto")


class TestDecimalEvidence:
    @pytest.mark.parametrize(
        ("texts", "verdict"),
        [
            (["1.234", "12,50", "x"], "comma"),
            (["1,234", "12.50"], "point"),
            (["1.234.567"], "comma"),
            (["1,234", "12", ""], "auto"),
            (["1,50", "1.50"], "auto"),
        ],
    )
    def test_gives_a_verdict(self, texts, verdict):
        evidence = DecimalEvidence()
        for text in texts:
            evidence.add(text)

        assert evidence.verdict() == verdict


class TestReadWhole:
    @pytest.mark.parametrize(
        ("text", "number"), [("5", 5), ("5.0", 5), ("5,00", 5), ("+7", 7), (" 1 ", 1)]
    )
    def test_reads(self, text, number):
        assert read_whole(text, limit=100) == number

    @pytest.mark.parametrize("text", ["1.000", "5.5", "x", "-1", "101", "9" * 40, ""])
    def test_refuses(self, text):
        with pytest.raises(ValueRefused):
            read_whole(text, limit=100)


class TestSlugOf:
    @pytest.mark.parametrize(
        ("text", "slug"),
        [
            ("Science Fiction & Fantasy", "science-fiction-fantasy"),
            ("Süßes  Öl", "susses-ol"),
            ("Smørrebrød", "smorrebrod"),
            ("x" * 99, "x" * 64),
        ],
    )
    def test_makes_a_slug(self, text, slug):
        assert slug_of(text) == slug

    def test_refuses_what_leaves_nothing(self):
        with pytest.raises(ValueRefused, match="category slug"):
            slug_of("書籍")


COLUMNS = ["id", "title", "text", "cost", "unit", "left", "shelf", "state", "by", "n"]
MAPPING = {
    "sku": "id",
    "name": "title",
    "description": "text",
    "price": "cost",
    "currency": "unit",
    "stock": "left",
    "category": "shelf",
    "status": "state",
    "attributes.authors": "by",
}


class TestItem:
    def test_holds_every_target(self):
        mapper = Mapper(COLUMNS, MAPPING, {"stock": 9})

        item, problems = mapper.item(
            ["a-1", " A ", "Long", "1,50", "usd", "3", "Sci Fi", "DRAFT", "X, Y", "-"]
        )

        assert problems == []
        assert item == {
            "sku": "a-1",
            "name": "A",
            "description": "Long",
            "price_minor": 150,
            "currency": "USD",
            "stock": 3,
            "category": "sci-fi",
            "status": "draft",
            "attributes": {"authors": "X, Y"},
        }

    def test_leaves_empty_cells_out_or_takes_the_default(self):
        mapper = Mapper(
            ["id", "title", "cost", "left"],
            {"sku": "id", "name": "title", "price": "cost", "stock": "left"},
            {"price": "12,99", "attributes.origin": "EU"},
        )

        item, problems = mapper.item(["a", "A", " ", ""])

        assert problems == []
        assert item == {
            "sku": "a",
            "name": "A",
            "price_minor": 1299,
            "attributes": {"origin": "EU"},
        }

    def test_reads_a_default_number_whatever_the_files_decimal_sign(self):
        mapper = Mapper(
            ["id", "title"], {"sku": "id", "name": "title"}, {"price": 9.5}, "comma"
        )

        assert mapper.item(["a", "A"])[0]["price_minor"] == 950

    def test_says_all_that_is_wrong(self):
        mapper = Mapper(COLUMNS, MAPPING, {})

        _, problems = mapper.item(
            ["-a", "x" * 201, "y" * 20_001, "?", "€", "-1", "書", "gone", "", ""]
        )

        assert [problem.partition(":")[0] for problem in problems] == [
            "sku",
            "name",
            "description",
            "price",
            "currency",
            "stock",
            "category",
            "status",
        ]

    def test_wants_sku_and_name(self):
        mapper = Mapper(["id", "title"], {"sku": "id", "name": "title"}, {})

        assert mapper.item(["", " "])[1] == [
            "sku: The cell is empty.",
            "name: The cell is empty.",
        ]

    def test_refuses_a_row_that_ends_too_early(self):
        mapper = Mapper(["id", "title"], {"sku": "id", "name": "title"}, {})

        assert mapper.item(["a"])[1] == ["The row ends before the column “title”."]
        assert mapper.text(["a"], "name") == ""
        assert mapper.text(["a"], "stock") == ""
