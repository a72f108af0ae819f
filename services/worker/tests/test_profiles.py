"""Import profiles: own ones alone, judged as mappings are, and what imports make of them."""

import threading
from uuid import uuid4

import pytest
from sqlalchemy import select

from flagon_worker.domain import profiles
from flagon_worker.models import ImportProfile

PATH = "/api/v1/import-profiles"
MAPPING = {"sku": "code", "name": "title", "price": "cost"}
SCOPES = ("jobs:read", "jobs:write")


@pytest.fixture
def ask(client, bearer):
    def ask(method, path="", match=None, who="me", key=None, **options):
        headers = bearer(*SCOPES, sub=who)
        headers |= {"If-Match": match} if match else {}
        headers |= {"Idempotency-Key": key} if key else {}
        return client.open(f"{PATH}{path}", method=method, headers=headers, **options)

    return ask


@pytest.fixture
def keep(ask):
    """Keeps a profile and returns it."""

    def keep(name="books", who="me", **fields):
        new = {"name": name, "mapping": MAPPING, **fields}
        answer = ask("POST", json=new, who=who)
        assert answer.status_code == 201, answer.json
        return answer.json

    return keep


class TestCreateProfile:
    def test_keeps_it(self, ask):
        new = {
            "name": " Bücher vom Händler ",
            "mapping": MAPPING,
            "defaults": {"currency": "EUR"},
            "delimiter": ";",
        }

        answer = ask("POST", json=new)

        assert answer.status_code == 201
        assert answer.json["name"] == "Bücher vom Händler"
        assert answer.json["decimals"] == "auto"
        shown = ask("GET", f"/{answer.json['id']}")
        assert answer.headers["Location"] == f"{PATH}/{answer.json['id']}"
        assert shown.json == answer.json
        assert shown.headers["ETag"] == answer.headers["ETag"]

    def test_once_for_one_key(self, ask):
        new = {"name": "books", "mapping": MAPPING}

        first, second = (ask("POST", json=new, key="k") for _ in range(2))

        assert first.json == second.json
        assert len(ask("GET").json["items"]) == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"mapping": {"sku": "code"}},
            {"mapping": {**MAPPING, "colour": "c"}},
            {"mapping": {**MAPPING, "price_minor": "c"}},
            {"mapping": {**MAPPING, "sku": " "}},
            {"mapping": None},
            {"defaults": {"sku": "x"}},
            {"defaults": {"stock": "many"}},
            {"encoding": "rot13"},
            {"delimiter": "::"},
            {"decimals": "dot"},
            {"dry_run": True},
            {"name": ""},
            {"name": "a\u200bb"},
            {"name": "a\nb"},
            {"name": "x" * 101},
        ],
    )
    def test_refuses_what_an_import_would_refuse(self, ask, wrong):
        answer = ask("POST", json={"name": "books", "mapping": MAPPING, **wrong})

        assert answer.status_code == 422
        assert ask("GET").json["items"] == []

    def test_has_a_name_of_its_own_for_each_person(self, ask, keep):
        keep()

        answer = ask("POST", json={"name": "books", "mapping": MAPPING})

        assert answer.status_code == 409
        assert answer.json["type"].endswith("#profile-name-taken")
        assert keep(who="other")["name"] == "books"

    def test_is_limited_also_when_all_ask_at_once(self, app, bearer, ask, monkeypatch):
        monkeypatch.setattr(profiles, "PROFILES_MAX", 2)
        headers = bearer(*SCOPES, sub="me")
        statuses = []

        def post(number):
            new = {"name": f"p{number}", "mapping": MAPPING}
            answer = app.test_client().post(PATH, json=new, headers=headers)
            statuses.append(answer.status_code)

        threads = [threading.Thread(target=post, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(statuses) == [201, 201, 409, 409, 409]
        assert len(ask("GET").json["items"]) == 2


class TestReplaceProfile:
    def test_needs_what_one_has_read(self, ask, keep):
        path = f"/{keep()['id']}"
        new = {"name": "other", "mapping": MAPPING, "decimals": "comma"}

        assert ask("PUT", path, json=new).status_code == 428
        assert ask("PUT", path, match='"v7"', json=new).status_code == 412
        answer = ask("PUT", path, match='"v1"', json=new)

        assert (answer.status_code, answer.json["version"]) == (200, 2)
        assert (answer.json["name"], answer.json["decimals"]) == ("other", "comma")
        same = ask("PUT", path, match='"v2"', json=new)
        assert same.json["version"] == 2

    def test_refuses_a_taken_name(self, ask, keep):
        keep("a")
        path = f"/{keep('b')['id']}"

        answer = ask("PUT", path, match='"v1"', json={"name": "a", "mapping": MAPPING})

        assert answer.status_code == 409
        assert ask("GET", path).json["name"] == "b"


class TestProfiles:
    def test_are_their_owners_alone(self, ask, keep):
        path = f"/{keep()['id']}"
        new = {"name": "mine now", "mapping": MAPPING}

        assert ask("GET", path, who="eve").status_code == 404
        assert ask("PUT", path, who="eve", match="*", json=new).status_code == 404
        assert ask("DELETE", path, who="eve", match="*").status_code == 404
        assert ask("GET", who="eve").json["items"] == []
        assert ask("GET", path).json["name"] == "books"

    def test_are_listed_by_name_page_by_page(self, ask, keep):
        for name in ("c", "a", "b"):
            keep(name)

        first = ask("GET", query_string={"limit": 2}).json
        cursor = first["next_cursor"]
        second = ask("GET", query_string={"limit": 2, "cursor": cursor}).json

        names = [item["name"] for item in first["items"] + second["items"]]
        assert names == ["a", "b", "c"]
        assert second["next_cursor"] is None

    def test_need_the_scopes(self, client, bearer, keep):
        path = f"{PATH}/{keep()['id']}"

        reads, writes = bearer("jobs:read", sub="me"), bearer("jobs:write", sub="me")
        assert client.get(path, headers=writes).status_code == 403
        assert client.delete(path, headers=reads).status_code == 403
        assert client.post(PATH, json={}, headers=reads).status_code == 403
        assert client.get(path).status_code == 401

    def test_are_deleted_by_who_has_read_them(self, ask, keep):
        path = f"/{keep()['id']}"

        assert ask("DELETE", path).status_code == 428
        assert ask("DELETE", path, match='"v1"').status_code == 204
        assert ask("GET", path).status_code == 404

    def test_end_with_the_account(self, keep, begin):
        keep()
        keep(who="other")
        gone = {"type": "market.flagon.user.deleted.v1", "data": {"id": "me"}}

        for _ in range(2):
            with begin() as session:
                profiles.take_events(session, [gone])

        with begin() as session:
            owners = session.scalars(select(ImportProfile.owner)).all()
        assert owners == ["other"]


class TestSuggestProfiles:
    def test_fit_when_the_file_has_all_their_columns(self, ask, keep):
        keep("less", mapping={"sku": "code", "name": "title"})
        keep("more")
        keep("others", mapping={**MAPPING, "stock": "left"})
        keep("foreign", who="other")

        def suggest(*columns):
            answer = ask("POST", "/suggest", json={"columns": columns})
            assert answer.status_code == 200
            return [item["name"] for item in answer.json["items"]]

        assert suggest("cost", "title", "code", "x") == ["more", "less"]
        assert suggest("code", "title") == ["less"]
        assert suggest("Code", "title") == []

    @pytest.mark.parametrize("columns", [[], ["x"] * 1001, [1], "code", [""]])
    def test_refuses_what_is_no_header(self, ask, columns):
        answer = ask("POST", "/suggest", json={"columns": columns})

        assert answer.status_code == 422


class TestImport:
    FILE = b"code;title;cost\na;A;1,50\n"

    def test_takes_what_is_not_given_from_the_profile(self, submit, keep, run, catalog):
        profile = keep(defaults={"currency": "EUR", "stock": 3}, delimiter=";")

        answer = submit(
            self.FILE, profile=profile["id"], mapping=MAPPING, defaults={"stock": 9}
        )
        job = run(answer.json["id"])

        assert job["result"]["created"] == 1, job
        assert catalog.products["a"]["stock"] == 9
        assert job["params"]["profile"] == profile["id"]
        assert job["params"]["delimiter"] == ";"

    def test_stays_as_it_was_handed_in(self, post_import, keep, run, catalog, ask):
        profile = keep(defaults={"stock": 3})
        answer = post_import(self.FILE, profile=profile["id"])
        assert answer.status_code == 202, answer.json
        path = f"/{profile['id']}"
        assert ask("DELETE", path, match='"v1"').status_code == 204

        job = run(answer.json["id"])

        assert job["state"] == "succeeded"
        assert catalog.products["a"]["stock"] == 3
        assert catalog.products["a"]["name"] == "A"

    def test_refuses_a_profile_of_somebody_else(self, post_import, keep):
        foreign = keep(who="other")["id"]

        for profile in (foreign, str(uuid4()), "../x", 7, {"a": 1}):
            answer = post_import(self.FILE, profile=profile)
            assert answer.status_code == 422
            assert answer.json["errors"][0]["pointer"] == "#/params/profile"

    def test_without_profile_needs_a_mapping(self, post_import):
        assert post_import(self.FILE).status_code == 422
        assert post_import(self.FILE, profile=None).status_code == 422

    @pytest.fixture
    def post_import(self, submit):
        """Hands in an import without a mapping of its own."""
        return lambda content, **params: submit(content, bare=True, **params)
