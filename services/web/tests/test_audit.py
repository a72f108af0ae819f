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


class TestJobs:
    def test_tells_what_was_done_and_leads_there(self, administrator, job_audited):
        state = {"state": {"from": "failed", "to": "queued"}}
        job = job_audited(actor=OWN_ID, client="web", action="retried", changes=state)
        hook = job_audited(entity="webhook", action="tested")
        gone = job_audited(entity="import_profile", action="deleted")

        text = administrator.get(f"{PAGE}/jobs").text

        assert ">failed</del>" in text
        assert ">queued</ins>" in text
        assert ">Retried<" in text
        assert ">Import profile<" in text
        assert f'href="/jobs/{job["id"]}"' in text
        assert f'href="/back-office/webhooks/{hook["id"]}"' in text
        assert f'{PAGE}/jobs?id={gone["id"]}"' in text

    def test_is_narrowed_on_its_own_page(self, administrator, job_audited, audited):
        audited(changes={"other": {"to": 1}})
        job_audited(entity="schedule", changes={"this": {"to": 1}})
        job_audited(changes={"that": {"to": 1}})

        text = administrator.get(f"{PAGE}/jobs?entity=schedule").text

        assert "<code>this</code>" in text
        assert "<code>that</code>" not in text
        assert "<code>other</code>" not in text
        assert f'action="{PAGE}/jobs"' in text
        assert f'class="filters__clear" href="{PAGE}/jobs"' in text

    def test_knows_what_there_is(self, administrator):
        text = administrator.get(f"{PAGE}/jobs").text

        offered = re.findall(r'<option value="(\w+)"', text)
        assert offered[:4] == ["job", "schedule", "webhook", "import_profile"]


class TestAccounts:
    def test_tells_what_happened_to_whom(self, administrator, an_event):
        whom, by = str(uuid4()), str(uuid4())
        an_event("password_reset", account_id=whom, actor=by, address="192.0.2.7")
        an_event("key_rotated", actor="cli", details={"kid": "k-1"})

        text = administrator.get(f"{PAGE}/accounts").text

        assert ">Password reset</strong> <a" in text
        assert text.count(f'href="/back-office/users/{whom}"') == 1
        assert f'href="/back-office/users/{by}"' in text
        assert "from 192.0.2.7" in text
        assert "<bdi>k-1</bdi>" in text
        assert text.count("all of this one") == 1
        assert f'href="{PAGE}/accounts?id={whom}"' in text

    def test_is_narrowed_to_one(self, administrator, platform, an_event):
        whom = str(uuid4())
        an_event("signed_in", account_id=whom)

        text = administrator.get(f"{PAGE}/accounts?id={whom}").text

        assert ("GET", f"/api/v1/users/{whom}/events?limit=30") in platform.calls
        assert "all of this one" not in text
        assert "Show all" in text

    def test_takes_a_number_as_others_write_it(self, administrator, platform, an_event):
        whom = uuid4()
        an_event("signed_in", account_id=str(whom))

        answer = administrator.get(f"{PAGE}/accounts?id={whom.hex}")

        assert answer.status_code == 200
        assert ("GET", f"/api/v1/users/{whom}/events?limit=30") in platform.calls

    def test_says_at_the_field_that_a_number_is_none(self, administrator, platform):
        answer = administrator.get(f"{PAGE}/accounts?id=me")

        assert answer.status_code == 422
        assert 'aria-describedby="id-error"' in answer.text
        assert not any("/users" in path for _, path in platform.calls)

    def test_says_when_there_is_nothing(self, administrator):
        assert "Nothing of the kind" in administrator.get(f"{PAGE}/accounts").text


class TestSources:
    @pytest.mark.parametrize(
        ("page", "service"),
        [(PAGE, "catalog"), (f"{PAGE}/jobs", "worker"), (f"{PAGE}/accounts", "auth")],
    )
    def test_fail_alone(self, administrator, platform, page, service):
        platform.down.add(service)
        pages = [PAGE, f"{PAGE}/jobs", f"{PAGE}/accounts"]

        answers = {one: administrator.get(one) for one in pages}

        assert [one for one in pages if answers[one].status_code == 503] == [page]
        assert f'href="{page}" aria-current="page"' in answers[page].text
        for one in pages:
            assert f'class="chip" href="{one}"' in answers[page].text


class TestPermissions:
    @pytest.mark.parametrize("role", ["customer", "merchandiser"])
    def test_are_the_operators(self, browser, platform, role):
        platform.role = role
        browser.sign_in(platform)

        assert f'href="{PAGE}"' not in browser.get("/jobs").text
        for path in (PAGE, f"{PAGE}/jobs", f"{PAGE}/accounts"):
            assert browser.get(path).status_code == 403
        asked = [path for _, path in platform.calls]
        assert not any("/audit" in path or "/users" in path for path in asked)

    def test_of_operators_end_before_accounts_and_clients(self, operator, audited):
        actor = str(uuid4())
        audited(actor=actor, client="web")

        text = operator.get(PAGE).text

        assert actor in text
        assert "/back-office/users" not in text
        assert "/back-office/clients" not in text
        assert f'href="{PAGE}/jobs"' in text
        assert f'href="{PAGE}/accounts"' not in text
        assert operator.get(f"{PAGE}/accounts").status_code == 403
