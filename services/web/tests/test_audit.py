import re
from uuid import uuid4

import pytest

from .conftest import OWN_ID

PAGE = "/back-office/audit"


class TestAudit:
    def test_tells_what_everything_was_and_became(self, administrator, audited):
        one = audited(
            actor=OWN_ID,
            client="web",
            changes={
                "price_minor": {"from": 1299, "to": 999},
                "tags": {"from": [], "to": ["new", "sale"]},
                "description": {"from": "", "to": "Long", "cut": True},
                "attributes": {"from": {"a": 1}, "to": None},
            },
        )

        text = administrator.get(PAGE).text

        for was, became in (
            ("1299", "999"),
            ("empty", "new, sale"),
            ("empty", "Long…"),
            ("{&#34;a&#34;: 1}", "empty"),
        ):
            assert f">{was}</del>" in text
            assert f">{became}</ins>" in text
        assert f'href="/products/{one["id"]}"' in text
        assert 'href="/back-office/clients/web"' in text
        assert "by you with <a" in text
        assert ">Updated<" in text

    def test_of_what_is_new_or_gone_has_one_side(self, administrator, audited):
        new = {"name": {"to": "Mug"}}
        audited(action="created", entity="category", changes=new)
        gone = audited(action="deleted", changes={"name": {"from": "Jug"}})

        text = administrator.get(PAGE).text

        assert ">Mug</ins>" in text
        assert ">Jug</del>" in text
        assert text.count("→") == 0
        assert f'href="/products/{gone["id"]}"' not in text

    def test_names_a_program_that_acts_for_itself_once(self, administrator, audited):
        audited(actor="worker", client="worker")

        text = administrator.get(PAGE).text

        assert 'by <a href="/back-office/clients/worker">' in text
        assert text.count("<code>worker</code>") == 1

    def test_says_where_it_keeps_nothing(self, administrator, audited):
        audited(entity="review", changes={"body": {}})

        assert "what it says is not kept here" in administrator.get(PAGE).text

    @pytest.mark.parametrize("name", ["entity", "id", "actor"])
    def test_is_narrowed(self, administrator, audited, name):
        one = audited(entity="tag", actor=str(uuid4()), changes={"this": {"to": 1}})
        audited(changes={"other": {"to": 1}})

        text = administrator.get(f"{PAGE}?{name}={one[name]}").text

        assert "<code>this</code>" in text
        assert "<code>other</code>" not in text
        assert "Show all" in text

    @pytest.mark.parametrize(
        ("query", "shown"),
        [
            ("since=2026-01-02T03:04", ["second", "third"]),
            ("until=2026-01-02T03:04", ["first"]),
            ("since=2026-01-02T03:04&until=2026-01-02T03:05", ["second"]),
            # As programs write it; the plus of an address is a blank.
            ("since=2026-01-02T05:05%2B02:00", ["third"]),
            ("since=&until=", ["first", "second", "third"]),
        ],
    )
    def test_is_narrowed_by_time(self, administrator, audited, query, shown):
        for name, time in (("first", "03:03"), ("second", "03:04"), ("third", "03:05")):
            audited(at=f"2026-01-02T{time}:00Z", changes={name: {"to": 1}})

        text = administrator.get(f"{PAGE}?{query}").text

        for name in ("first", "second", "third"):
            assert (f"<code>{name}</code>" in text) == (name in shown)

    def test_keeps_the_time_from_page_to_page(self, administrator, audited):
        for _ in range(31):
            audited()

        text = administrator.get(f"{PAGE}?since=2026-01-01T00:00").text

        assert re.search(r'rel="next"[^>]*since=2026-01-01T00(:|%3A)00', text)
        assert 'value="2026-01-01T00:00"' in text

    @pytest.mark.parametrize("name", ["since", "until"])
    @pytest.mark.parametrize("time", ["yesterday", "2026-13-01T00:00", "%22%3E"])
    def test_says_at_the_field_that_a_time_is_none(
        self, administrator, platform, name, time
    ):
        answer = administrator.get(f"{PAGE}?{name}={time}")

        assert answer.status_code == 422
        assert f'aria-describedby="{name}-error"' in answer.text
        assert not any("/audit" in path for _, path in platform.calls)

    def test_leads_from_a_change_to_all_of_the_same_thing(self, administrator, audited):
        one = audited()

        assert f"{PAGE}?id={one['id']}" in administrator.get(PAGE).text
        text = administrator.get(f"{PAGE}?id={one['id']}").text
        assert "all of this one" not in text

    def test_says_at_the_field_that_a_number_is_none(self, administrator, audited):
        audited()

        answer = administrator.get(f"{PAGE}?id=mug&entity=nothing")

        assert answer.status_code == 422
        assert 'aria-describedby="id-error"' in answer.text

    def test_says_when_there_is_nothing(self, administrator):
        assert "Nothing of the kind" in administrator.get(PAGE).text


class TestPermissions:
    @pytest.mark.parametrize("role", ["customer", "merchandiser"])
    def test_are_the_operators(self, browser, platform, role):
        platform.role = role
        browser.sign_in(platform)

        assert f'href="{PAGE}"' not in browser.get("/jobs").text
        assert browser.get(PAGE).status_code == 403
        assert ("GET", "/api/v1/audit") not in platform.calls

    def test_of_operators_end_before_accounts_and_clients(self, operator, audited):
        actor = str(uuid4())
        audited(actor=actor, client="web")

        text = operator.get(PAGE).text

        assert actor in text
        assert "/back-office/users" not in text
        assert "/back-office/clients" not in text
