"""Files of every kind, and what is said about those that cannot be read."""

import tracemalloc

import pytest

from flagon_worker.domain import sheets
from flagon_worker.domain.encodings import SheetUnreadable

WANTED = ["sku", "name"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "upload"


def layout_of(path, content, wanted=WANTED, **options):
    path.write_bytes(content)
    return sheets.inspect(path, wanted=wanted, **options)


def read(path, content, wanted=WANTED, **options):
    layout = layout_of(path, content, wanted, **options)
    with sheets.open_rows(
        path, layout, start_byte=layout.start_byte, start_row=layout.start_row
    ) as rows:
        return layout, list(rows)


TEXT = "sku{0}name{0}price\na{0}Käse{0}1,50\nb{0}Brötchen groß{0}0,30\n"


class TestEncodingAndDelimiter:
    @pytest.mark.parametrize("delimiter", [";", "\t", "|"])
    @pytest.mark.parametrize(
        ("encoding", "mark", "found"),
        [
            ("utf-8", b"", "utf-8"),
            ("utf-8", b"\xef\xbb\xbf", "utf-8"),
            ("utf-16-le", b"\xff\xfe", "utf-16-le"),
            ("utf-16-be", b"\xfe\xff", "utf-16-be"),
            ("utf-16-le", b"", "utf-16-le"),
            ("utf-16-be", b"", "utf-16-be"),
            ("cp1252", b"", "cp1252"),
        ],
    )
    def test_are_found(self, path, delimiter, encoding, mark, found):
        content = mark + TEXT.format(delimiter).encode(encoding)

        layout, rows = read(path, content)

        assert (layout.encoding, layout.delimiter) == (found, delimiter)
        assert [list(row.cells) for row in rows] == [
            ["a", "Käse", "1,50"],
            ["b", "Brötchen groß", "0,30"],
        ]
        assert rows[-1].end_byte == len(content)

    def test_commas_with_quoted_commas(self, path):
        layout, rows = read(path, b'sku,name\r\n1,"Fish, fried"\r\n')

        assert layout.delimiter == ","
        assert rows[0].cells == ["1", "Fish, fried"]

    def test_decimal_commas_do_not_make_a_file_comma_separated(self, path):
        text = "sku;name;price\n" + "".join(f"{n};N;1,5{n}\n" for n in range(9))

        assert layout_of(path, text.encode()).delimiter == ";"

    def test_a_hint_for_excel_is_followed(self, path):
        layout, rows = read(path, b"sep=|\nsku|name\na|A;B\n")

        assert layout.delimiter == "|"
        assert rows[0].number == 3

    def test_one_column_is_a_table(self, path):
        layout, rows = read(path, b"sku\na\nb\n", ["sku"])

        assert layout.columns == ("sku",)
        assert len(rows) == 2

    def test_what_was_named_is_trusted(self, path):
        content = "sku,name\nр1,Привет\n".encode("cp1251")

        layout, rows = read(path, content, encoding="cp1251", delimiter=",")

        assert rows[0].cells == ["р1", "Привет"]
        assert rows[0].end_byte == len(content)
        assert layout.encoding == "cp1251"

    @pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
    def test_utf_16_that_was_named_goes_by_its_mark(self, path, mark):
        codec = "utf-16-be" if mark == b"\xfe\xff" else "utf-16-le"
        content = mark + "sku,name\na,Ä\n".encode(codec)

        layout, rows = read(path, content, encoding="utf-16")

        assert layout.encoding == codec
        assert rows[0].cells == ["a", "Ä"]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_lines_may_end_in_any_way(self, path, end):
        _, rows = read(path, end.join(["sku,name", "a,A", "b,B", ""]).encode())

        assert [row.cells for row in rows] == [["a", "A"], ["b", "B"]]

    def test_a_mark_that_lies_is_told(self, path):
        with pytest.raises(SheetUnreadable, match="not"):
            layout_of(path, b"\xef\xbb\xbfsku,name\na,\xe4\n")

    def test_damaged_utf_8_is_not_taken_for_windows(self, path):
        good = "sku,name\n" + "a,Größe\n" * 50

        with pytest.raises(SheetUnreadable, match="looks like UTF-8"):
            layout_of(path, good.encode() + b"b,\xe4\n")

    def test_neither_utf_8_nor_windows(self, path):
        with pytest.raises(SheetUnreadable, match="neither UTF-8"):
            layout_of(path, b"sku,name\na,\x81\x8d\n")

    def test_an_accent_split_between_two_chunks(self, path, monkeypatch):
        monkeypatch.setattr("flagon_worker.domain.encodings._CHUNK_BYTES", 3)

        layout, _ = read(path, "sku,name\na,äöüß€\nb,x\n".encode())

        assert layout.encoding == "utf-8"

    def test_a_late_accent_decides(self, path):
        content = b"sku,name\n" + b"a,plain\n" * 200_000 + b"b,caf\xe9\n"

        layout, rows = read(path, content)

        assert layout.encoding == "cp1252"
        assert rows[-1].cells == ["b", "café"]


PATHOLOGIES = {
    "empty": (b"", "empty"),
    "blank": (b" \n\t\n ", "empty"),
    "only a mark": (b"\xef\xbb\xbf", "no header"),
    "utf-16 mark only": (b"\xff\xfe", "no header"),
    "workbook": (b"PK\x03\x04" + b"\0" * 500, "Excel"),
    "old workbook": (b"\xd0\xcf\x11\xe0" + b"\0" * 500, "old Excel"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "gzip": (b"\x1f\x8b\x08\0", "gzip"),
    "png": (b"\x89PNG\r\n\x1a\n", "PNG"),
    "random": (bytes(range(256)) * 300, "binary"),
    "nul": (b"sku,name\na,b\0c\n", "binary"),
    "late nul": (b"sku,name\n" + b"a,b\n" * 40_000 + b"c,\0\n", "NUL"),
    "missing column": (b"sku,title\na,A\n", "no column “name”"),
    "near miss": (b"sku,Name\na,A\n", "Did you mean “Name”"),
    "duplicate headers": (b"sku,name,name\na,A,B\n", "“name” more than once"),
    "columns": (b",".join(b"c%d" % n for n in range(10_000)) + b"\n", "10000 columns"),
    "long line": (b"x" * 3_000_000, "longer than"),
    "long row": (b"sku,name\na," + b"x" * 2_000_000 + b"\n", "longer than"),
    "long quoted": (b'sku,name\na,"' + b"x\n" * 1_000_000, "longer than"),
    "open quote": (b'sku,name\na,"A\nb,B\nc,C\n', "Row 2 opens a quotation mark"),
    "open quote in header": (b'sku,"name\na,A\n', "header row cannot be read"),
    "header only": (b"sku,name\n", "no rows"),
    "header and blanks": (b"sku,name\n\n,\n  , \n", "no rows"),
    "json array": (b'[{"sku": "a"}]', "JSON array"),
    "cut utf-16": (b"\xff\xfe" + "sku,name\na,A".encode("utf-16-le") + b"x", "UTF-16"),
    "html": (b"<!doctype html><html><body>Sign in</body></html>", "no column"),
}


class TestPathologies:
    @pytest.mark.parametrize("name", PATHOLOGIES)
    def test_are_told_with_what_to_do(self, path, name):
        content, said = PATHOLOGIES[name]

        with pytest.raises(SheetUnreadable, match=said) as refusal:
            sheets.survey(path, layout_of(path, content))

        assert len(str(refusal.value)) < 2500

    def test_an_empty_file_whose_encoding_was_named(self, path):
        with pytest.raises(SheetUnreadable, match="empty"):
            layout_of(path, b"", encoding="cp1252")

    def test_many_columns_are_not_all_listed(self, path):
        header = ",".join(f"c{n}" for n in range(900)).encode()

        with pytest.raises(SheetUnreadable, match="and 880 more"):
            layout_of(path, header + b"\n")

    @pytest.mark.parametrize("content", [b"x", b'sku,name\na,"'])
    def test_a_100_mb_line_takes_little_memory(self, path, content):
        with path.open("wb") as file:
            file.write(content)
            for _ in range(100):
                file.write(b"y" * 1_000_000)
        tracemalloc.start()
        try:
            with pytest.raises(SheetUnreadable, match="longer than"):
                sheets.survey(path, sheets.inspect(path, wanted=WANTED))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert peak < 16_000_000


class TestRows:
    def test_count_as_a_spreadsheet_does(self, path):
        _, rows = read(path, b'\n\nsku,name\na,"A\nA"\n\nb,B\n,\n')

        assert [(row.number, row.cells[0]) for row in rows] == [(4, "a"), (6, "b")]

    def test_too_many_cells_are_refused_unless_empty(self, path):
        _, rows = read(path, b"sku,name\na,A,more\nb,B,, \n")

        assert rows[0].problem == "The row has 3 cells, the header has 2."
        assert rows[1].cells == ["b", "B"]
        assert not rows[1].problem

    def test_text_after_a_quote_refuses_that_row_alone(self, path):
        _, rows = read(path, b'sku,name\na,"A" x\nb,B\n')

        assert "closing quotation mark" in rows[0].problem
        assert rows[1].cells == ["b", "B"]

    def test_can_be_read_from_any_row_on(self, path):
        text = "sku,name\r\n" + "".join(
            f'{n},"Größe\r\n{n}"\r\n\r\n' for n in range(300)
        )
        for encoding in ("utf-8", "utf-16-le", "cp1252"):
            layout, rows = read(path, text.encode(encoding), encoding=encoding)
            for start in (0, 7, 298):
                with sheets.open_rows(
                    path,
                    layout,
                    start_byte=rows[start].end_byte,
                    start_row=rows[start].number,
                ) as again:
                    assert list(again) == rows[start + 1 :]

    def test_are_taken_few_enough_to_hold(self):
        rows = [sheets.Row(n, ["x" * 300_000], 0) for n in range(9)]
        source = iter(rows)

        assert len(sheets.take(source, 500)) == 4
        assert len(sheets.take(source, 2)) == 2
        assert len(sheets.take(source, 500)) == 3
        assert sheets.take(source, 500) == []


class TestNdjson:
    def test_is_read_like_a_table(self, path):
        content = (
            b'{"sku": 1, "name": "A", "x": 2.50}\n\n'
            b'{"name": {"de": "\xc3\x84"}, "sku": true}\n'
        )

        layout, rows = read(path, content, ["sku", "name", "x"])

        assert layout.form == "ndjson"
        assert [list(row.cells) for row in rows] == [
            ["1", "A", "2.50"],
            ["true", '{"de": "Ä"}', ""],
        ]
        assert [row.number for row in rows] == [1, 3]
        assert rows[-1].end_byte == len(content)

    def test_tells_lines_that_are_no_objects(self, path):
        lines = [b'{"sku": "a"}', b"{oops", b"[1]", b"[" * 100_000]

        _, rows = read(path, b"\n".join(lines))

        assert [row.problem for row in rows] == [
            "",
            "The line is not valid JSON.",
            "The line is not a JSON object.",
            "The line is not valid JSON.",
        ]
