import re

import pytest

from flagon_chassis.http import Refused


class TestHome:
    def test_shows_products_and_categories(self, browser, platform, product_with):
        platform.add(*(product_with(f"Book {n}") for n in range(4)))

        text = browser.get("/").text

        assert "Book 3" in text
        assert "€12.99" in text
        assert 'href="/categories/books"' in text

    def test_of_an_empty_shop_says_what_to_do(self, browser, signed_in, make_browser):
        assert "The shelf is empty" in make_browser().get("/").text
        assert 'href="/import"' in signed_in.get("/").text

    def test_shows_the_rest_when_the_catalog_is_down(self, browser, platform):
        platform.down.add("catalog")

        answer = browser.get("/")

        assert answer.status_code == 200
        assert "The shelf cannot be shown right now" in answer.text

    def test_asks_for_its_parts_with_the_request_id(self, browser, platform):
        answer = browser.get("/", headers={"X-Request-ID": "0123456789abcdef"})

        assert answer.headers["X-Request-ID"] == "0123456789abcdef"


class TestCategory:
    def test_shows_its_products_page_by_page(self, browser, platform, product_with):
        platform.add(*(product_with(f"Book {n:02}") for n in range(20)))

        first = browser.get("/categories/books").text
        more = re.search(r'data-more href="([^"]+)"', first)[1]
        second = browser.get(more.replace("&amp;", "&")).text

        assert "Book 17" in first
        assert "Book 18" not in first
        assert "Book 19" in second
        assert "data-more" not in second
        assert "Back to the start" in second

    def test_may_be_empty(self, browser):
        assert "Nothing here yet" in browser.get("/categories/books").text

    def test_that_does_not_exist_is_a_404(self, browser):
        assert browser.get("/categories/none").status_code == 404

    def test_says_so_when_the_catalog_is_down(self, browser, platform):
        platform.down.add("catalog")

        answer = browser.get("/categories/board-games")

        assert answer.status_code == 200
        assert "Board Games" in answer.text
        assert "cannot be shown right now" in answer.text


class TestSearch:
    def test_finds_by_words(self, browser, platform, product_with):
        platform.add(product_with("Dune"), product_with("The Hobbit"))

        text = browser.get("/search?q=dune").text

        assert "Dune" in text
        assert "The Hobbit" not in text
        assert 'value="dune"' in text

    def test_marks_where_the_words_were_found(self, browser, platform, product_with):
        words = "There is <b>spice</b> & more of the spice."
        platform.add(product_with("Spice & Dune: a story", description=words))
        platform.add(product_with("Spices", description="Salt."))

        text = browser.get("/search?q=spice").text

        assert "<mark>Spice</mark> &amp; Dune</span>" in text
        assert "There is &lt;b&gt;<mark>spice</mark>&lt;/b&gt; &amp; more" in text
        assert "<mark>Spice</mark>s</span>" in text
        assert "Salt." not in text
        assert "<mark>" not in browser.get("/").text

    def test_says_when_nothing_fits(self, browser):
        assert "Nothing found" in browser.get("/search?q=zzz").text

    def test_says_what_was_searched_for_instead(self, browser, platform, product_with):
        platform.add(product_with("Dune & more"))
        platform.corrected["dnue <&>"] = "dune &"

        text = browser.get("/search?q=dnue+%3C%26%3E").text

        assert "Dune &amp; more" in text
        assert 'value="dnue &lt;&amp;&gt;"' in text
        shown = re.sub(r"<[^>]+>", "", text)
        assert (
            "Showing results for “dune &amp;” instead of “dnue &lt;&amp;&gt;”" in shown
        )
        assert "instead of" not in browser.get("/search?q=dune").text

    def test_without_words_asks_the_catalog_nothing(self, browser, platform):
        browser.get("/search?q=%20%20")

        assert platform.calls == []

    def test_says_so_when_the_catalog_is_down(self, browser, platform):
        platform.down.add("catalog")

        assert "cannot be shown right now" in browser.get("/search?q=a").text


class TestProduct:
    def test_shows_what_there_is_to_know(self, browser, platform, product_with):
        found = platform.add(
            product_with(
                "A Long Story: And Its End (Story, #2)",
                slug="a-long-story",
                stock=2,
                attributes={
                    "authors": "Ann, Ben, Cid, Dan, Eve",
                    "original_publication_year": "-720.0",
                    "isbn13": "9.78e+12",
                    "image_url": "https://pictures.example/x.jpg",
                },
            )
        )

        text = browser.get("/products/a-long-story").text

        assert "Story, #2" in text
        assert "And Its End" in text
        assert "and 4 others" in text
        assert '<li dir="auto">Eve</li>' in text
        assert "Only 2 left" in text
        assert "720 BC" in text
        assert "ISBN-13" in text
        assert "pictures.example" not in text
        assert f'data-product="{found["id"]}"' in text

    def test_shows_the_description_as_the_catalog_made_it(
        self, browser, platform, product_with
    ):
        html = '<h3>Of <em>glass</em></h3><p>&lt;script&gt; "A" &amp; B</p><p>C</p>'
        platform.add(product_with(slug="x", description="# …", description_html=html))

        page = browser.get("/products/x").text

        assert html in page
        summary = "Of glass &lt;script&gt; &#34;A&#34; &amp; B C"
        assert f"at Flagon. {summary}" in page.partition("<body")[0]
        assert "# …" not in page

    def test_shows_the_words_of_a_catalog_that_makes_no_html(
        self, browser, platform, product_with
    ):
        platform.add(product_with(slug="x", description="<b>Long</b> " * 90))

        page = browser.get("/products/x").text

        assert "<b>Long" not in page
        head, _, body = page.partition("<body")
        assert body.count("&lt;b&gt;Long&lt;/b&gt;") == 90
        assert 5 < head.count("&lt;b&gt;Long&lt;/b&gt;") < 15

    def test_shows_all_its_pictures_and_loads_the_first_at_once(
        self, browser, platform, a_product, a_picture
    ):
        platform.add(a_product)
        first = a_picture(a_product, alt="Front", width=2000)
        page = f"/products/{a_product['slug']}"
        assert "gallery" not in browser.get(page).text

        second = a_picture(a_product, alt="<Back>", thumbnails=[])
        text = browser.get(page).text

        pictures = re.findall(r'<img class="picture"[^>]*>', text)
        assert len(pictures) == 2
        choice = f"{first['url'][:-9]}480.webp 480w, {first['url'][:-9]}160.webp 160w"
        assert f'srcset="{choice}, {first["url"]} 2000w"' in pictures[0]
        assert "lazy" not in pictures[0]
        assert 'fetchpriority="high"' in pictures[0]
        assert f'srcset="{second["url"]} 800w"' in pictures[1]
        assert 'loading="lazy"' in pictures[1]
        assert all('width="' in one and 'height="' in one for one in pictures)
        assert text.count('href="#picture-') == 2
        assert "Picture 2: &lt;Back&gt;" in text

    def test_is_found_by_id_and_by_slug(self, browser, platform, a_product):
        platform.add(a_product)

        assert browser.get(f"/products/{a_product['id']}").status_code == 200
        assert browser.get("/products/the-hobbit").status_code == 200
        assert browser.get("/products/the-silmarillion").status_code == 404

    def test_says_so_when_the_catalog_is_down(self, browser, platform):
        platform.down.add("catalog")

        answer = browser.get("/products/the-hobbit")

        assert answer.status_code == 503
        assert "Retry-After" in answer.headers

    def test_has_a_form_for_those_who_may(self, signed_in, platform, a_product):
        platform.add(a_product)

        text = signed_in.get("/products/the-hobbit").text

        assert 'action="/products/the-hobbit/price"' in text
        assert 'value="&#34;1&#34;"' in text

    def test_has_none_for_customers(self, browser, platform, a_product):
        platform.role = "customer"
        platform.add(a_product)
        browser.sign_in(platform)

        assert "Change the price" not in browser.get("/products/the-hobbit").text

    def test_is_shown_as_to_a_stranger_when_the_token_cannot_be_had(
        self, signed_in, platform, a_product, store
    ):
        platform.add(a_product)
        (key,) = store.keys("web:session:*")
        store.hdel(key, "tokens")

        assert signed_in.get("/products/the-hobbit").status_code == 200


class TestChangePrice:
    @pytest.fixture(autouse=True)
    def _book(self, platform, a_product):
        platform.add(a_product)
        self.book = a_product

    def change(self, browser, price, etag='"1"'):
        return browser.submit("/products/the-hobbit/price", price=price, etag=etag)

    @pytest.mark.parametrize(
        ("price", "minor"),
        [("9.99", 999), ("9,5", 950), ("1000", 100_000), (" 7 ", 700)],
    )
    def test_changes_it(self, signed_in, price, minor):
        answer = self.change(signed_in, price)

        assert answer.status_code == 303
        assert answer.location == "/products/the-hobbit"
        assert self.book["price_minor"] == minor
        assert "The price is €" in signed_in.get("/products/the-hobbit").text

    def test_shows_a_conflict_and_keeps_what_was_typed(self, signed_in):
        self.book.update(version=2, price_minor=1500)

        answer = self.change(signed_in, "9.99")

        assert answer.status_code == 409
        assert "It costs €15.00 now" in answer.text
        assert 'value="9.99"' in answer.text
        assert 'value="&#34;2&#34;"' in answer.text
        assert self.book["price_minor"] == 1500

    @pytest.mark.parametrize(
        "price", ["", "free", "-1", "1.234", "1e9", "9999999999", "1,000.00", "12.99€"]
    )
    def test_refuses_what_is_no_price(self, signed_in, price):
        answer = self.change(signed_in, price)

        assert answer.status_code in {400, 422}
        assert 'role="alert"' in answer.text
        assert self.book["price_minor"] == 1299

    def test_refuses_a_made_up_entity_tag(self, signed_in):
        assert self.change(signed_in, "1", etag="*").status_code == 400
        assert self.change(signed_in, "1", etag='"1", "2"').status_code == 400

    def test_shows_why_the_catalog_refuses(self, signed_in):
        answer = self.change(signed_in, "9999999.99")

        assert answer.status_code == 422
        assert "The price is too high" in answer.text

    def test_is_not_for_customers(self, browser, platform):
        platform.role = "customer"
        browser.sign_in(platform)

        answer = self.change(browser, "1")

        assert answer.status_code == 403
        assert "Your account may not do this" in answer.text

    def test_sends_strangers_to_the_sign_in_and_back(self, make_app, make_browser):
        app = make_app()
        app.config["WTF_CSRF_ENABLED"] = False

        answer = make_browser(app=app).post(
            "/products/the-hobbit/price", {"back": "/products/the-hobbit"}
        )

        assert answer.location == "/sign-in?next=/products/the-hobbit"

    def test_passes_on_what_it_does_not_know(self, signed_in, platform):
        csrf = signed_in.csrf()
        platform.refuse["catalog"] = (403, "No.")

        answer = signed_in.post(
            "/products/the-hobbit/price",
            {"csrf_token": csrf, "price": "1", "etag": '"1"'},
        )

        assert answer.status_code == 403

    def test_passes_on_a_refusal_of_the_change_itself(
        self, signed_in, monkeypatch, app
    ):
        def refuse(*_args, **_options):
            raise Refused("catalog", 428, {})

        catalog = app.extensions["flagon.web"].catalog
        monkeypatch.setattr(catalog, "change_price", refuse)

        assert self.change(signed_in, "1").status_code == 428


class TestNarrowedSearch:
    @pytest.fixture
    def shelf(self, platform, product_with):
        platform.add(
            product_with("Warm tea", tags=["gift"], category="books"),
            product_with("Cold tea", tags=["gift", "ice"], category="games", stock=0),
        )

    def links(self, text):
        found = re.findall(r'<a class="chip" href="([^"]+)"([^>]*)>', text)
        return [
            (link.replace("&amp;", "&"), "aria-current" in more) for link, more in found
        ]

    def test_counts_what_it_can_be_narrowed_by(self, browser, shelf):
        text = browser.get("/search?q=tea").text

        assert self.links(text) == [
            ("/search?q=tea&in_stock=1", False),
            ("/search?q=tea&category=books", False),
            ("/search?q=tea&category=games", False),
            ("/search?q=tea&tag=gift", False),
            ("/search?q=tea&tag=ice", False),
        ]
        # By its name where it has one, else by its slug.
        assert "<bdi>Books</bdi>" in text
        assert "<bdi>games</bdi>" in text

    def test_keeps_each_filter_and_takes_it_away_again(self, browser, shelf):
        text = browser.get("/search?q=tea&category=books&in_stock=1").text

        assert "Warm tea" in text
        assert "Cold tea" not in text
        assert self.links(text)[:2] == [
            ("/search?q=tea&category=books", True),
            ("/search?q=tea&in_stock=1", True),
        ]

    def test_that_finds_nothing_still_offers_to_widen_it(self, browser, shelf):
        text = browser.get("/search?q=tea&category=books&tag=ice").text

        assert "Nothing found" in text
        assert ("/search?q=tea&tag=ice", True) in self.links(text)

    @pytest.mark.parametrize("slug", ["../x", "<script>", "A b", "a&limit=100", "-"])
    def test_passes_on_no_filter_that_is_none(self, browser, shelf, slug):
        answer = browser.get("/search", query_string={"q": "tea", "category": slug})

        assert answer.status_code == 200
        assert "Warm tea" in answer.text
        assert "<script>" not in answer.text

    def test_begins_to_suggest_only_with_a_script(self, browser):
        text = browser.get("/").text

        assert re.search(r'<ul class="suggestions"[^>]* hidden></ul>', text)
        assert "suggest.js?v=" in text
        # The roles of a combobox would promise what only the script does.
        assert 'role="combobox"' not in text


class TestSlashAtTheEnd:
    @pytest.mark.parametrize(
        ("asked", "meant"),
        [
            ("/categories/books/?sort=price", "/categories/books?sort=price"),
            ("/back-office/", "/back-office"),
        ],
    )
    def test_leads_to_the_page_that_is_meant(self, browser, asked, meant):
        answer = browser.get(asked)

        assert answer.status_code == 308
        assert answer.headers["Location"] == meant

    @pytest.mark.parametrize(
        "asked", ["/nowhere/", "/%5Cbooks.test/", "/%2Fbooks.test/"]
    )
    def test_leads_to_nobody_else(self, browser, asked):
        answer = browser.get(asked)

        assert "//books.test" not in answer.headers.get("Location", "")
        assert answer.status_code in {308, 404}

    def test_is_an_error_where_something_would_be_done(self, browser):
        assert browser.post("/categories/books/").status_code in {400, 404}
