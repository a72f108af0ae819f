import pytest

PAGE = "/back-office/export"
WRITTEN = {
    "key": "0" * 32,
    "format": "csv.gz",
    "status": "any",
    "words": " tolkien ",
    "category": "books",
    "price_from": "5",
    "price_to": "19,99",
    "currency": "EUR",
    "sku": "",
    "in_stock": "y",
}


class TestCreateExport:
    def test_starts_a_job_with_the_filters(self, signed_in, platform):
        answer = signed_in.submit(PAGE, **WRITTEN)

        job = next(iter(platform.jobs.values()))
        assert answer.location == f"/jobs/{job['id']}"
        sent = platform.uploads[0]
        assert (sent["kind"], sent["content"]) == ("export", None)
        assert sent["params"] == {
            "format": "csv",
            "gzip": True,
            "q": "tolkien",
            "category": "books",
            "status": "any",
            "currency": "EUR",
            "price_minor_min": 500,
            "price_minor_max": 1999,
            "in_stock": True,
        }

    def test_filters_nothing_by_what_is_left_empty(self, signed_in, platform):
        signed_in.submit(
            PAGE, key="0" * 32, format="xlsx", status="active", currency=""
        )

        assert platform.uploads[0]["params"] == {
            "format": "xlsx",
            "gzip": False,
            "status": "active",
        }

    def test_sent_twice_has_one_key(self, signed_in, platform):
        for words in ("a", "a", "b"):
            signed_in.submit(PAGE, **{**WRITTEN, "words": words})

        one, two, three = (upload["key"] for upload in platform.uploads)
        assert one == two != three

    @pytest.mark.parametrize(
        ("change", "place", "words"),
        [
            ({"price_from": "1.234,56"}, "price_from", "Write an amount"),
            ({"price_to": "1.999"}, "price_to", "2 decimals at most"),
            ({"currency": ""}, "currency", "Choose the currency"),
            ({"format": "pdf"}, "format", "Not a valid choice"),
            ({"words": "x" * 201}, "words", "200 characters"),
        ],
    )
    def test_says_at_the_field_what_is_wrong(
        self, signed_in, platform, change, place, words
    ):
        answer = signed_in.submit(PAGE, **{**WRITTEN, **change})

        assert answer.status_code == 422
        _, mark, after = answer.text.partition(f'id="{place}-error"')
        assert mark
        assert words in after.partition("</p>")[0]
        assert platform.uploads == []

    def test_says_at_the_field_what_the_api_refused(self, signed_in, platform):
        errors = [{"pointer": "#/params/q", "detail": "Too many words"}]
        platform.refuse["worker"] = (422, "The parameters are not right.")
        platform.problems = errors

        answer = signed_in.submit(PAGE, **WRITTEN)

        assert answer.status_code == 422
        assert "Too many words" in answer.text.partition('id="words-error"')[2]

    def test_keeps_what_was_written_while_the_jobs_api_is_down(
        self, signed_in, platform
    ):
        platform.down.add("worker")

        answer = signed_in.submit(PAGE, **WRITTEN)

        assert answer.status_code == 503
        assert 'value="19,99"' in answer.text
        assert '<option selected value="books">' in answer.text

    def test_is_for_those_who_may_see_drafts(self, browser, platform):
        assert browser.get(PAGE).location == f"/sign-in?next={PAGE}"
        platform.role = "customer"
        browser.sign_in(platform)

        assert browser.get(PAGE).status_code == 403
        assert browser.submit(PAGE, **WRITTEN).status_code == 403
        assert platform.uploads == []


class TestChooseProducts:
    def test_begins_with_the_list_that_one_comes_from(
        self, signed_in, platform, a_product
    ):
        platform.add(a_product)
        assert f'href="{PAGE}?q=hobbit"' in signed_in.get("/search?q=hobbit").text
        assert (
            f'href="{PAGE}?category=books"' in signed_in.get("/categories/books").text
        )

        text = signed_in.get(f"{PAGE}?q=hobbit&category=books").text

        assert 'value="hobbit"' in text
        assert '<option selected value="books">Books</option>' in text

    def test_is_not_offered_to_customers(self, browser, platform, a_product):
        platform.add(a_product)

        assert PAGE not in browser.get("/search?q=hobbit").text

    def test_works_without_the_catalog(self, signed_in, platform):
        platform.down.add("catalog")

        answer = signed_in.get(f"{PAGE}?category=books")

        assert answer.status_code == 200
        assert '<option selected value="books">' in answer.text


class TestExportedJob:
    def test_shows_how_many_and_the_file(self, signed_in, platform, a_job):
        url = "/api/v1/jobs/1/artefacts/products.csv.gz"
        job = a_job(
            "succeeded",
            kind="export",
            upload=None,
            result={"products": 1234},
            artefacts=[{"name": "products.csv.gz", "url": url}],
        )
        platform.add_job(job)

        text = signed_in.get(f"/jobs/{job['id']}").text

        assert "<strong>1,234</strong><span>products</span>" in text
        assert f'href="{url}"' in text
        assert "Download products.csv.gz" in text
        assert "Import another file" not in text
        assert "1,234 products" in signed_in.get("/jobs").text
