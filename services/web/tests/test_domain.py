from importlib.resources import files

import pytest

from flagon_web.domain import covers, imports, jobs, money, products, schedules

A_PRODUCT = {
    "id": "1",
    "sku": "a",
    "slug": "a",
    "name": "A",
    "price_minor": 1299,
    "currency": "EUR",
}


def product(**members):
    return products.Product.model_validate({**A_PRODUCT, **members})


class TestMoney:
    @pytest.mark.parametrize(
        ("minor", "currency", "text"),
        [
            (1299, "EUR", "€12.99"),
            (5, "USD", "$0.05"),
            (123456789, "GBP", "£1,234,567.89"),
            (1500, "JPY", "¥1,500"),
            (1234, "KWD", "KWD\N{NO-BREAK SPACE}1.234"),
            (1000, "CHF", "CHF\N{NO-BREAK SPACE}10.00"),
        ],
    )
    def test_is_written_as_browsers_do(self, minor, currency, text):
        assert money.readable(minor, currency) == text

    @pytest.mark.parametrize(
        ("text", "currency", "minor"),
        [
            ("12.99", "EUR", 1299),
            ("12,9", "EUR", 1290),
            ("12", "EUR", 1200),
            ("1500", "JPY", 1500),
            ("1.5", "KWD", 1500),
            ("0", "EUR", 0),
        ],
    )
    def test_is_read_with_comma_or_point(self, text, currency, minor):
        assert money.minor_units(text, currency) == minor

    @pytest.mark.parametrize(
        ("text", "currency"),
        [("", "EUR"), ("1,234", "EUR"), ("1.5", "JPY"), ("٣", "EUR"), ("1_0", "EUR")],
    )
    def test_is_refused_when_unclear(self, text, currency):
        with pytest.raises(money.AmountUnreadable):
            money.minor_units(text, currency)


class TestCover:
    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("Dune", ("Dune", "", "")),
            ("Dune (Dune, #1)", ("Dune", "Dune, #1", "")),
            ("Gut: The Inside (xy)", ("Gut", "xy", "The Inside")),
            ("(Untitled)", ("(Untitled)", "", "")),
            ("12:30", ("12:30", "", "")),
            (": x", (": x", "", "")),
            ("محال", ("محال", "", "")),
        ],
    )
    def test_cuts_a_title(self, name, parts):
        title = covers.split_title(name)

        assert (title.main, title.series, title.subtitle) == parts

    def test_is_always_the_same_for_a_title(self):
        assert covers.cover("Dune") == covers.cover("Dune")
        assert covers.cover("Dune").classes.startswith("cover cover--p")

    def test_has_looks_that_the_style_sheet_knows(self):
        css = (files("flagon_web") / "static" / "flagon.css").read_text()
        for letter, count in (
            ("p", covers.PALETTES),
            ("m", covers.MOTIFS),
            ("l", covers.LAYOUTS),
        ):
            for number in range(count):
                assert f".cover--{letter}{number}" in css
            assert f".cover--{letter}{count}" not in css

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("Dune", "xl"),
            ("The Great Gatsby", "l"),
            ("Harry Potter and the Order", "l"),
            ("A" * 40, "xs"),
            ("word " * 30, "xs"),
        ],
    )
    def test_makes_long_titles_smaller(self, name, size):
        assert covers.cover(name).size == size

    def test_shortens_what_would_not_fit(self):
        title = covers.cover("word " * 40).title

        assert len(title) <= 111
        assert title.endswith("…")


class TestProduct:
    @pytest.mark.parametrize(
        ("attributes", "makers", "byline"),
        [
            ({}, [], ""),
            ({"authors": "Ann, Ben"}, ["Ann", "Ben"], "Ann, Ben"),
            ({"authors": ["Ann", "Ann"]}, ["Ann"], "Ann"),
            ({"brand": "Acme"}, ["Acme"], "Acme"),
            ({"authors": "a,b,c,d"}, ["a", "b", "c", "d"], "a and 3 others"),
            ({"authors": " , "}, [], ""),
        ],
    )
    def test_names_its_makers(self, attributes, makers, byline):
        found = product(attributes=attributes)

        assert found.makers == makers
        assert found.byline == byline

    @pytest.mark.parametrize(
        ("stock", "level"), [(0, "none"), (-1, "none"), (3, "few"), (4, "many")]
    )
    def test_says_how_much_is_left(self, stock, level):
        assert product(stock=stock).availability == level
        assert product(stock=9, available=stock).availability == level

    def test_shows_facts_worth_reading(self):
        facts = product(
            attributes={
                "authors": "Ann",
                "pages": 12,
                "signed": False,
                "tags": ["a", "b"],
                "publication_year": "2008.0",
                "_": "x",
                "empty": " ",
                "none": None,
                "nested": {},
                "image_url": "https://x.example",
            }
        ).facts

        assert facts == [
            ("_", "x"),
            ("Pages", "12"),
            ("Publication year", "2008"),
            ("Signed", "No"),
            ("Tags", "a, b"),
        ]

    def test_may_have_members_that_we_do_not_know(self):
        assert product(colour="red").ref == "a"
        assert product(slug="").ref == "1"


class TestJob:
    @pytest.mark.parametrize(
        ("done", "total", "percent"),
        [(0, None, None), (5, 10, 50), (20, 10, 100), (1, 0, None)],
    )
    def test_knows_how_far_it_is(self, done, total, percent):
        assert jobs.Progress(done=done, total=total).percent == percent

    def test_has_no_duration_before_the_end(self):
        job = jobs.Job(
            id="1", kind="import", state="queued", created_at="2026-01-01T00:00:00Z"
        )

        assert job.seconds is None
        assert job.why == ""


class TestReadTable:
    @pytest.mark.parametrize(
        ("text", "encoding", "kind"),
        [
            ("id,name\n1,Müller\n", "utf-8", "CSV with commas, UTF-8"),
            ("id;name\n1;Müller, A\n2;x\n", "utf-8-sig", "CSV with semicolons, UTF-8"),
            ("id\tname\n1\tMüller\n", "utf-16", "CSV with tabs, UTF-16"),
            ("id|name\n1|Müller\n", "cp1252", "CSV with bars, Windows-1252"),
            ('{"id": 1, "name": "Müller"}\n\n', "utf-8", "JSON lines, UTF-8"),
        ],
    )
    def test_finds_out_how_it_is_written(self, text, encoding, kind):
        table = imports.read_table(text.encode(encoding), complete=True)

        assert table.kind == kind
        assert table.columns == ["id", "name"]
        assert "Müller" in table.rows[0]["name"]

    def test_does_not_mind_where_the_head_ends(self):
        text = "id,name\n" + "1,é\n" * 50
        head = text.encode()[:-2]

        table = imports.read_table(head, complete=False)

        assert len(table.rows) == imports.SAMPLE_ROWS
        assert table.kind.endswith("UTF-8")

    def test_reads_rows_of_any_length_and_skips_empty_ones(self):
        table = imports.read_table(b"a,b\n\n1\n,\n1,2,3\n", complete=True)

        assert table.rows == [{"a": "1"}, {"a": "1", "b": "2"}]
        assert table.sample("b") == ["2"]

    @pytest.mark.parametrize("start", [b"a,b\n1,", b"a\n", b'a,b\n1,2\n"'])
    def test_refuses_fields_without_end(self, start):
        head = start + b'"' + b"x" * 200_000

        with pytest.raises(imports.FileUnreadable, match="longer than any"):
            imports.read_table(head, complete=True)

    def test_refuses_a_field_that_runs_over_all_lines(self):
        with pytest.raises(imports.FileUnreadable, match="longer than any"):
            imports.read_table(b'a,b\n"' + b"line\n" * 40_000, complete=True)

    def test_refuses_rows_of_nothing(self):
        with pytest.raises(imports.FileUnreadable, match="empty"):
            imports.read_table(b",,\n,,\n", complete=True)

    def test_reads_one_column(self):
        assert imports.read_table(b"a\n1\n", complete=True).columns == ["a"]

    def test_reads_json_values_as_text(self):
        table = imports.read_table(b'{"a": null, "b": 1.5}', complete=True)

        assert table.rows == [{"a": "", "b": "1.5"}]

    def test_reads_real_files(self):
        # The columns and a row of goodbooks-10k's list of books, cut off in the middle of
        # the next one as the head of a long file is.
        head = (
            b"book_id,goodreads_book_id,best_book_id,work_id,books_count,isbn,isbn13,"
            b"authors,original_publication_year,original_title,title,language_code,"
            b"average_rating,ratings_count,image_url\n"
            b"1,2767052,2767052,2792775,272,439023483,9.78043902348e+12,"
            b'Suzanne Collins,2008.0,The Hunger Games,"The Hunger Games (The Hunger '
            b'Games, #1)",eng,4.34,4780653,https://images.example.com/2767052.jpg\n'
            b"2,3,3,4640799,491,439554934,9.78043"
        )

        suggested = imports.suggest(imports.read_table(head, complete=False))

        assert suggested["book_id"] == "sku"
        assert suggested["title"] == "name"
        assert suggested["authors"] == "attribute"
        assert suggested["image_url"] == ""


class TestSuggest:
    def suggest(self, header, *rows):
        text = "\n".join([header, *rows])
        return imports.suggest(imports.read_table(text.encode(), complete=True))

    def test_knows_common_headers(self):
        found = self.suggest(
            "Artikelnummer;Bezeichnung;Preis;Menge;Währung;Kategorie;Marke",
            "A-1;Krug;12,99;5;EUR;Haus;x",
            "A-2;Glas;3,50;7;EUR;Haus;x",
        )

        assert list(found.values()) == [
            "sku",
            "name",
            "price",
            "stock",
            "currency",
            "category",
            "",
        ]

    def test_looks_at_the_values_too(self):
        assert self.suggest("sku,id,title", "a b,1,x", "c d,2,y")["id"] == "sku"
        assert self.suggest("sku,id,title", "a,1,x", "a,2,y")["id"] == "sku"
        assert self.suggest("price,stock,cents", "call us,many,x")["price"] == ""

    def test_knows_columns_by_their_values_where_no_header_does(self):
        found = self.suggest(
            "a,b,c,d,e",
            "Dune,Frank Herbert,K-1,€ 9.99,EUR",
            "Emma,Jane Austen,K-2,€ 4.50,EUR",
            "A longer title,Jane Austen,K-3,€ 4.50,EUR",
        )

        assert list(found.values()) == ["name", "", "sku", "price", "currency"]

    @pytest.mark.parametrize(
        "rows",
        [
            # Too few.
            ["Dune,K-1,9.99", "Emma,K-2,4.50"],
            # An empty cell; the same twice; whole numbers.
            ["Dune,K-1,9", "Dune,,12", "Emma,K-3,8"],
        ],
    )
    def test_leaves_what_is_in_doubt(self, rows):
        found = self.suggest("a,b,c", *rows)

        assert {"price", "name"}.isdisjoint(found.values())
        assert found["b"] == ""

    def test_gives_each_target_once(self):
        found = self.suggest("sku,id,name,title", "1,2,a,b")

        assert found == {"sku": "sku", "id": "", "name": "name", "title": ""}


class TestNames:
    @pytest.mark.parametrize(
        ("column", "name"),
        [
            ("authors", "authors"),
            ("Original Title", "original_title"),
            ("著者", "column"),
            ("2nd author", "nd_author"),
            ("Größe", "groe"),
            ("x" * 100, "x" * 62),
        ],
    )
    def test_of_attributes_are_what_the_jobs_api_takes(self, column, name):
        assert imports.attribute_name(column) == name

    def test_of_categories_are_slugs(self):
        assert imports.slug("  Good Books & More! ") == "good-books-more"
        assert imports.slug("書") == ""


class TestSchedule:
    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (1, "every second"),
            (90, "every 90 seconds"),
            (60, "every minute"),
            (300, "every 5 minutes"),
            (3600, "every hour"),
            (172_800, "every 2 days"),
            (0.5, "every 0.5 seconds"),
            (90.5, "every 90.5 seconds"),
        ],
    )
    def test_says_its_interval_in_the_largest_whole_unit(self, seconds, words):
        assert schedules.span(seconds) == words

    def test_says_numbers_as_people_write_them(self):
        assert [schedules.plain(n) for n in (None, 30.0, 0.1, 31_622_400)] == [
            "",
            "30",
            "0.1",
            "31622400",
        ]
