"""Reviews that mean no good: refused, or shown as the text that they are."""

import json
from html.parser import HTMLParser
from time import process_time
from uuid import uuid4

import pytest

from flagon_catalog.domain.markup import html_of

PRODUCTS = "/api/v1/products"
REVIEWS = "/api/v1/reviews"
JSON = "application/json"
GOOD = {"author": "Ada", "rating": 4, "title": "T"}

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe src=//evil.test></iframe>",
    "<style>*{display:none}</style>",
    "<p style='position:fixed'>x</p>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1&gt;'>",
    "<!-- --><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](file:///etc/passwd)",
    "[x](//evil.test)",
    "[x](/account/delete)",
    "[x](mailto:a@evil.test)",
    "[x]\n\n[x]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "![x](https://evil.test/pixel.png)",
    "![x](javascript:alert(1))",
    '[x](https://a.test "\\"onmouseover=alert(1) ")',
    "[x](https://a.test'onclick=alert(1))",
    '```"><script>alert(1)</script>\nx\n```',
    "`<script>`",
    "# The page's own heading",
    "The page's own heading\n===",
    "> " * 50 + "<b>deep</b>",
    "&#x202e;gnp.exe &lt;script&gt;",
]
ALLOWED = {
    *("p", "br", "em", "strong", "a", "ul", "ol", "li"),
    *("blockquote", "pre", "code", "hr"),
}


class Elements(HTMLParser):
    """What a browser would make of a text."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_comment(self, data):
        pytest.fail(f"a comment: {data}")


@pytest.fixture
def ada(bearer):
    return bearer("reviews:write", sub=str(uuid4()))


@pytest.fixture
def place(make):
    return f"{PRODUCTS}/{make()['id']}/reviews"


class TestMarkup:
    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_lets_nothing_through_but_plain_text_and_links(self, payload):
        shown = html_of(payload)

        for tag, attributes in Elements(shown).found:
            assert tag in ALLOWED
            assert set(attributes) <= {"href", "rel", "start"}
            if "href" in attributes:
                assert attributes["href"].startswith(("https://", "http://"))
            if tag == "a":
                assert "nofollow" in attributes["rel"]
        assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2069")

    def test_shows_what_people_write(self):
        text = "A *b* **c** `d`\n\n- [e](https://f.test)\n\n> g\n\n1. h"

        tags = {tag for tag, _ in Elements(html_of(text)).found}

        assert tags == {
            *("p", "em", "strong", "code", "ul", "li", "a", "blockquote", "ol"),
        }

    @pytest.mark.parametrize(
        "part",
        ["[", "]", "![", "*a ", "*_", "a**b", ">", "> ", "`", "[a](", "<", "&#", "- "],
    )
    def test_ends_soon_whatever_is_repeated(self, part):
        began = process_time()

        html_of((part * 10_000)[:10_000])

        assert process_time() - began < 3


class TestFields:
    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_that_look_like_html_are_only_text(self, client, place, ada, payload):
        title = payload.replace("\n", " ").replace("\t", " ")[:100]
        body = {"rating": 4, "author": "<b>Ada</b>", "title": title, "body": payload}

        answer = client.post(place, json=body, headers=ada)

        assert answer.status_code == 201
        assert (answer.json["title"], answer.json["body"]) == (title.strip(), payload)
        assert answer.json["author"] == "<b>Ada</b>"
        assert answer.mimetype == JSON
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            (field, value)
            for field, values in {
                "rating": [0, 6, -1, "5", 4.5, True, None, 10**30, [5], {}],
                "author": [
                    *("", " ", "x" * 81, None, 1, ["x"], "a\nb", "a\tb", "\x7f"),
                    *("ada@example.org", "\u202eada", "a\u2066b", "a\u200fb"),
                    *("\u200b", "\u200d", "a\u00adb", "\ufeffa", "\u3164", "\u2800"),
                    *("\U000e0041", "a\u2028b", "\ue000", "\u0301"),
                ],
                "title": ["", "x" * 121, None, "\u202egnp", "a\x85b", "\u200b"],
                "body": ["x" * 10_001, None, 1, "\x1b[31m", "\u202e", "a\u2069b"],
                "language": ["", "english", "EN", "en-us", "en_US", "e", 1, "en\n"],
                "state": ["published"],
                "subject": [str(uuid4())],
                "body_html": ["<script>"],
                "note": ["x"],
                "product_id": [str(uuid4())],
                "version": [7],
                "created_at": ["2020-01-01T00:00:00Z"],
            }.items()
            for value in values
        ],
    )
    def test_that_are_wrong(self, client, place, ada, assert_problem, field, value):
        answer = client.post(place, json={**GOOD, field: value}, headers=ada)

        problem = assert_problem(answer, 422, "invalid-request")
        assert problem["errors"][0]["pointer"].startswith(f"#/{field}")
        assert client.get(REVIEWS, headers=ada).json["items"] == []

    @pytest.mark.parametrize(
        "author", ["Zoë", "李雷", "علی‌رضا", "👩‍💻", "O'Neil", "x" * 80, "  Ada  "]
    )
    def test_take_the_names_that_people_have(self, client, place, ada, author):
        answer = client.post(place, json={**GOOD, "author": author}, headers=ada)

        assert answer.status_code == 201
        assert answer.json["author"] == author.strip()

    def test_take_whole_stars_in_any_spelling(self, client, place, ada):
        body = '{"author": "A", "rating": 4.0, "title": "T"}'

        answer = client.post(place, data=body, content_type=JSON, headers=ada)

        assert answer.json["rating"] == 4

    @pytest.mark.parametrize("field", ["author", "title", "body"])
    @pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "a\\udfffb"])
    def test_that_no_database_can_hold(
        self, client, place, ada, assert_problem, field, text
    ):
        whole = json.dumps({**GOOD, field: "PLACE"}).replace("PLACE", text)

        answer = client.post(place, data=whole, content_type=JSON, headers=ada)

        assert_problem(answer, 400)

    def test_of_a_megabyte(self, client, place, ada, assert_problem):
        answer = client.post(place, json={**GOOD, "body": "x" * 2**20}, headers=ada)

        assert_problem(answer, 413)


class TestQueries:
    @pytest.mark.parametrize(
        "query",
        [
            *("rating=0", "rating=6", "rating=x", "rating=4.5", "rating=true"),
            *("language=english", "language=%00", "sort=worst", "sort=-newest"),
            *("limit=0", "limit=101", "cursor=x", "state=pending", "own=true"),
            *("rating=1&rating=2", "subject=x"),
        ],
    )
    def test_that_make_no_sense(self, client, place, assert_problem, query):
        answer = client.get(f"{place}?{query}")

        assert answer.status_code in {400, 422}
        assert_problem(answer, answer.status_code)

    @pytest.mark.parametrize(
        "query", ["state=gone", "sort=highest", "own=x", "cursor=%00", "rating=1"]
    )
    def test_of_the_queue_that_make_no_sense(
        self, client, merchandiser, assert_problem, query
    ):
        answer = client.get(f"{REVIEWS}?{query}", headers=merchandiser)

        assert answer.status_code in {400, 422}
        assert_problem(answer, answer.status_code)


class TestAddresses:
    @pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
    def test_that_name_nothing(self, client, ada, assert_problem, method):
        for name in (uuid4(), "nonsense", "a%00b", f"{uuid4()}/more"):
            answer = client.open(
                f"{REVIEWS}/{name}",
                method=method,
                json={} if method == "PATCH" else None,
                headers={**ada, "If-Match": "*"},
            )
            assert_problem(answer, answer.status_code)
            assert answer.status_code in {400, 404}
