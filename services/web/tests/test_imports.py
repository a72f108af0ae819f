import io
import os
import re
from typing import ClassVar

import pytest

from flagon_web.clients.spool import Spool, UploadGone

BOOKS = (
    "book_id,title,authors,year\n1,Dune,Frank Herbert,1965\n2,Emma,Jane Austen,1815\n"
)


def upload(browser, content=BOOKS, name="books.csv"):
    if isinstance(content, str):
        content = content.encode()
    return browser.submit("/import", file=(io.BytesIO(content), name))


def columns(browser, *targets, **more):
    data = {f"targets-{n}": target for n, target in enumerate(targets)}
    return browser.submit("/import/columns", **{"currency": "EUR", **data, **more})


class TestUploadFile:
    def test_leads_to_the_columns(self, signed_in):
        answer = upload(signed_in)

        assert (answer.status_code, answer.location) == (303, "/import/columns")

    def test_is_kept_under_a_secret_name(self, signed_in, tmp_path):
        upload(signed_in, name="../../etc/passwd")

        (kept,) = (tmp_path / "spool").iterdir()
        assert kept.read_bytes() == BOOKS.encode()
        assert "passwd" not in kept.name
        assert "passwd" in signed_in.get("/import/columns").text
        assert "../" not in signed_in.get("/import/columns").text

    def test_replaces_the_one_before(self, signed_in, tmp_path):
        upload(signed_in)
        upload(signed_in)

        assert len(list((tmp_path / "spool").iterdir())) == 1

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "The file is empty"),
            (b" \n \n", "The file is empty"),
            (b"a,b\n", "has a header but no rows"),
            (b"PK\x03\x04\0\0\0", "The file is not text"),
            (b"a,a\n1,2\n", "Two columns are named"),
            (b"a,\n1,2\n", "A column has no name"),
            (
                b",".join([b"c%d" % n for n in range(300)]) + b"\n1\n",
                "200 are the limit",
            ),
            (b"x" * 300_000, "The first line is too long"),
            (b'{"a": 1}\nnonsense\n', "not a JSON object"),
            (b'{"a": 1}\n[1]\n', "not a JSON object"),
            (b'a,b\n"' + b"x" * 200_000 + b'",2\n', "longer than any field"),
        ],
    )
    def test_that_is_no_table_comes_back(self, signed_in, tmp_path, content, why):
        answer = upload(signed_in, content)

        assert answer.status_code == 422
        assert why in answer.text
        assert list((tmp_path / "spool").iterdir()) == []

    def test_missing_comes_back(self, signed_in):
        answer = signed_in.submit("/import")

        assert answer.status_code == 422
        assert "Choose a file first" in answer.text

    def test_that_is_too_large_is_refused(self, make_app, make_browser, platform):
        browser = make_browser(app=make_app(upload_max_bytes=1000, form_max_bytes=5000))
        browser.sign_in(platform)

        assert upload(browser, "a,b\n" + "1,2\n" * 3000).status_code == 413
        assert upload(browser, BOOKS).status_code == 303

    def test_is_for_merchandisers(self, browser, platform):
        assert browser.get("/import").location == "/sign-in?next=/import"
        platform.role = "customer"
        browser.sign_in(platform)

        assert browser.get("/import").status_code == 403
        assert "Import" not in browser.get("/").text


class TestChooseColumns:
    def test_shows_samples_and_suggestions(self, signed_in):
        upload(signed_in)

        text = signed_in.get("/import/columns").text

        assert "Frank Herbert" in text
        assert '<option selected value="sku">' in text
        assert '<option selected value="name">' in text
        assert text.count('<option selected value="attribute">') == 2

    def test_begins_again_without_a_file(self, signed_in):
        assert signed_in.get("/import/columns").location == "/import"
        assert columns(signed_in, "sku").location == "/import"

    def test_begins_again_when_the_file_waited_too_long(self, signed_in, tmp_path):
        upload(signed_in)
        for file in (tmp_path / "spool").iterdir():
            file.unlink()

        assert signed_in.get("/import/columns").location == "/import"


class TestProfiles:
    """Mappings that a person keeps."""

    MAPPING: ClassVar = {"name": "title", "sku": "book_id", "attributes.year": "year"}

    def test_fill_in_what_the_columns_mean(self, signed_in, a_profile):
        defaults = {
            "price_minor": 1299,
            "currency": "GBP",
            "stock": 5,
            "category": "books",
        }
        a_profile("Books", self.MAPPING, defaults=defaults)
        upload(signed_in)

        text = signed_in.get("/import/columns").text

        assert "Filled in as you did before." in text
        assert re.findall(r'<option selected value="(\w+)">', text) == [
            "sku",
            "name",
            "attribute",
            "GBP",
        ]
        for value in ("12.99", "5", "books", "Books"):
            assert f'value="{value}"' in text

    def test_are_chosen_among_those_that_fit(self, signed_in, a_profile):
        first = a_profile("First", self.MAPPING)
        second = a_profile("Second", {"sku": "title", "name": "book_id"}, defaults={})
        a_profile("Elsewhere", {"sku": "isbn", "name": "title"})
        upload(signed_in)

        text = signed_in.get(f"/import/columns?profile={second['id']}").text

        links = re.findall(r'chip" href="[^"]*profile=([^"]*)"( aria-current)?', text)
        assert links == [(first["id"], ""), (second["id"], " aria-current"), ("", "")]
        assert text.index('selected value="name"') < text.index('selected value="sku"')
        headers = signed_in.get("/import/columns?profile=").text
        assert "what the headers and the first values suggest" in headers
        assert 'value="First"' not in headers

    @pytest.mark.parametrize(
        ("mapping", "members"),
        [
            (MAPPING, {"decimals": "comma"}),
            (MAPPING, {"encoding": "cp1252"}),
            (MAPPING, {"delimiter": ";"}),
            (MAPPING, {"defaults": {"status": "draft"}}),
            ({**MAPPING, "attributes.when": "year"}, {}),
            ({**MAPPING, "stock": "title"}, {}),
        ],
    )
    def test_are_not_offered_where_the_form_cannot_show_them(
        self, signed_in, a_profile, mapping, members
    ):
        a_profile("Odd", mapping, **members)
        upload(signed_in)

        assert "Odd" not in signed_in.get("/import/columns").text

    def test_are_kept_under_a_name(self, signed_in, platform):
        for price in ("12", "13"):
            upload(signed_in)
            more = {"price": price, "keep_as": " Books "}
            assert columns(signed_in, "sku", "name", "", "attribute", **more).location

        (kept,) = platform.import_profiles.values()
        assert (kept["name"], kept["version"]) == ("Books", 2)
        assert kept["mapping"] == self.MAPPING
        assert kept["defaults"] == {"currency": "EUR", "price_minor": 1300}
        assert len(platform.uploads) == 2

    def test_are_refused_before_the_import_begins(self, signed_in, platform):
        upload(signed_in)

        answer = columns(signed_in, "sku", "name", "", "", price="1", keep_as="odd")

        assert answer.status_code == 422
        assert "No such name." in answer.text
        assert (platform.uploads, platform.import_profiles) == ([], {})

    def test_are_deleted(self, signed_in, platform, a_profile):
        kept = a_profile("Books", self.MAPPING)
        place = f"/import/profiles/{kept['id']}/delete"
        assert place in signed_in.get("/import").text

        assert signed_in.submit(place).location == "/import"
        assert platform.import_profiles == {}
        text = signed_in.get("/import").text
        assert "The mapping is deleted." in text
        assert "Mappings that you keep" not in text
        signed_in.submit(place)
        assert "It is gone already." in signed_in.get("/import").text

    def test_are_missed_by_nobody_while_the_worker_is_down(self, signed_in, platform):
        upload(signed_in)
        platform.down.add("worker")

        assert "Frank Herbert" in signed_in.get("/import/columns").text
        assert signed_in.get("/import").status_code == 200


class TestCreateImport:
    def test_hands_the_file_to_the_jobs_api(self, signed_in, platform, tmp_path):
        upload(signed_in)

        answer = columns(
            signed_in,
            "sku",
            "name",
            "attribute",
            "",
            price="12,99",
            stock="5",
            category="Good Books",
        )

        (job_id,) = platform.jobs
        assert (answer.status_code, answer.location) == (303, f"/jobs/{job_id}")
        (sent,) = platform.uploads
        assert sent["kind"] == "import"
        assert sent["name"] == "books.csv"
        assert sent["content"] == BOOKS.encode()
        assert sent["params"] == {
            "mapping": {
                "sku": "book_id",
                "name": "title",
                "attributes.authors": "authors",
            },
            "defaults": {
                "currency": "EUR",
                "price_minor": 1299,
                "stock": 5,
                "category": "good-books",
            },
            "dry_run": False,
        }
        assert len(sent["key"]) == 64
        assert list((tmp_path / "spool").iterdir()) == []
        assert signed_in.get("/import/columns").location == "/import"

    def test_can_be_a_dry_run(self, signed_in, platform):
        upload(signed_in)
        columns(signed_in, "sku", "name", "", "price_minor", dry_run="y")

        assert platform.uploads[0]["params"]["dry_run"] is True
        assert platform.uploads[0]["params"]["mapping"]["price_minor"] == "year"

    @pytest.mark.parametrize(
        ("targets", "more", "why"),
        [
            (("", "name", "", ""), {}, "Choose the column that holds: SKU"),
            (("sku", "", "", ""), {}, "Choose the column that holds: Name"),
            (
                ("sku", "sku", "name", ""),
                {},
                "Two columns are chosen for this, keep one: SKU",
            ),
            (("sku", "name", "", ""), {}, "Choose a column for the price"),
            (("sku", "name", "price", "price_minor"), {}, "not two"),
            (("sku", "name", "", ""), {"price": "a lot"}, "Write an amount"),
            (("sku", "name", "", ""), {"price": "1.999"}, "2 decimals at most"),
            (("sku", "name", "", ""), {"stock": "-4", "price": "1"}, "Stock:"),
            (("sku", "name", "", ""), {"currency": "XXX"}, "Currency:"),
            (("sku", "name", "hack", ""), {}, "Becomes"),
            (("sku", "name"), {}, "does not fit the file"),
        ],
    )
    def test_says_what_is_missing(self, signed_in, platform, targets, more, why):
        upload(signed_in)

        answer = columns(signed_in, *targets, **more)

        assert answer.status_code == 422
        assert why in answer.text
        assert platform.uploads == []

    def test_of_two_columns_that_become_one_attribute_says_so(self, signed_in):
        upload(signed_in, "id,title,pub year,pub-year\n1,a,2,3\n")

        answer = columns(signed_in, "sku", "name", "attribute", "attribute", price="1")

        assert "the attribute “pub_year”" in answer.text

    def test_shows_why_the_jobs_api_refuses(self, signed_in, platform):
        upload(signed_in)
        platform.refuse["worker"] = (422, "That mapping is odd.")

        answer = columns(signed_in, "sku", "name", "", "", price="1")

        assert answer.status_code == 422
        assert "That mapping is odd." in answer.text

    def test_passes_on_other_refusals(self, signed_in, platform):
        upload(signed_in)
        platform.refuse["worker"] = (403, "No.")

        assert columns(signed_in, "sku", "name", "", "", price="1").status_code == 403

    def test_says_so_when_the_jobs_api_is_down(self, signed_in, platform, tmp_path):
        upload(signed_in)
        platform.down.add("worker")

        answer = columns(signed_in, "sku", "name", "", "", price="1")

        assert answer.status_code == 503
        # The file is still there for another try.
        assert len(list((tmp_path / "spool").iterdir())) == 1


class TestRunImport:
    """What follows a dry run."""

    @pytest.fixture
    def checked(self, signed_in, platform):
        upload(signed_in)
        page = columns(
            signed_in, "sku", "name", "", "", price="1", dry_run="y"
        ).location
        platform.jobs[page.rsplit("/", 1)[1]]["state"] = "succeeded"
        return page

    def run(self, browser, page):
        return browser.submit(f"/import/run/{page.rsplit('/', 1)[1]}")

    def test_imports_the_same_file_in_the_same_way(
        self, signed_in, platform, tmp_path, checked
    ):
        assert "Import it now" in signed_in.get(checked).text
        assert "To the shop" not in signed_in.get(checked).text

        answer = self.run(signed_in, checked)

        assert answer.location in {f"/jobs/{job_id}" for job_id in platform.jobs}
        assert answer.location != checked
        dry, real = platform.uploads
        assert (dry["params"].pop("dry_run"), real["params"].pop("dry_run")) == (
            True,
            False,
        )
        assert dry.pop("key") != real.pop("key")
        assert dry == real
        # Nothing is left behind, and nothing is run twice.
        assert list((tmp_path / "spool").iterdir()) == []
        assert "Import it now" not in signed_in.get(checked).text
        assert self.run(signed_in, checked).location == "/import"
        assert len(platform.uploads) == 2

    def test_is_decided_by_how_many_rows_can_be_used(
        self, signed_in, platform, checked
    ):
        job = platform.jobs[checked.rsplit("/", 1)[1]]
        job.update(
            progress={"done": 1200, "total": 1200, "unit": "rows", "message": ""},
            result={"created": 0, "updated": 0, "unchanged": 0, "refused": 4},
        )

        tiles = re.findall(
            r"<strong>([\d,]+)</strong><span>(\w+)", signed_in.get(checked).text
        )

        assert tiles == [("1,196", "usable"), ("4", "refused")]

    def test_waits_until_the_check_has_succeeded(self, signed_in, platform, checked):
        for state in ("queued", "running", "failed", "cancelled"):
            platform.jobs[checked.rsplit("/", 1)[1]]["state"] = state
            assert "Import it now" not in signed_in.get(checked).text

    def test_is_over_when_the_file_waited_too_long(self, signed_in, tmp_path, checked):
        for file in (tmp_path / "spool").iterdir():
            os.utime(file, (0, 0))

        assert "Import it now" not in signed_in.get(checked).text
        assert self.run(signed_in, checked).location == "/import"
        assert "is not kept any more" in signed_in.get("/import").text
        assert list((tmp_path / "spool").iterdir()) == []

    def test_is_over_when_another_file_came(self, signed_in, tmp_path, checked):
        upload(signed_in, BOOKS.replace("Dune", "Other"))

        assert len(list((tmp_path / "spool").iterdir())) == 1
        assert "Import it now" not in signed_in.get(checked).text
        assert self.run(signed_in, checked).location == "/import"

    def test_is_for_who_checked_it(self, make_browser, platform, checked):
        other = make_browser()
        other.sign_in(platform)
        upload(other)

        assert "Import it now" not in other.get(checked).text
        assert self.run(other, checked).location == "/import"
        assert len(platform.uploads) == 1

    def test_may_be_tried_again_when_the_jobs_api_was_down(
        self, signed_in, platform, checked
    ):
        platform.down.add("worker")
        assert self.run(signed_in, checked).status_code == 503
        platform.down.clear()

        assert self.run(signed_in, checked).location.startswith("/jobs/")
        assert len(platform.uploads) == 2


class TestSpool:
    def test_forgets_what_waited_too_long(self, tmp_path):
        now = 1_000_000.0
        spool = Spool(tmp_path, seconds=60, clock=lambda: now)
        ticket = spool.keep(io.BytesIO(b"x"))
        os.utime(spool.path(ticket), (now - 61, now - 61))

        spool.sweep()

        with pytest.raises(UploadGone):
            spool.path(ticket)

    def test_does_not_mind_that_others_sweep_too(self, tmp_path, monkeypatch):
        spool = Spool(tmp_path, seconds=60)
        (tmp_path / "dangling").symlink_to(tmp_path / "gone")

        spool.sweep()

    @pytest.mark.parametrize("ticket", ["", "../x", "a" * 43, "/etc/passwd", "x" * 44])
    def test_opens_nothing_else(self, tmp_path, ticket):
        spool = Spool(tmp_path, seconds=60)

        with pytest.raises(UploadGone):
            spool.path(ticket)
        spool.drop(ticket)
