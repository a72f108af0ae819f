"""What breaks clients does not pass unless the version says so; what does not, does."""

import copy
import json
import shutil
import subprocess

import pytest

from .conftest import ROOT

PLACE = "/api/v1/things"


def things():
    """A small document; the tests change one thing in it."""
    thing = {
        "type": "object",
        "required": ["id", "state"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "state": {"type": "string", "enum": ["new", "old"]},
            "size": {"type": "integer", "minimum": 0, "maximum": 9},
            "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}},
        },
    }
    new = {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": 9},
            "kind": {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Things", "version": "1.0.0"},
        "paths": {
            PLACE: {
                "get": {
                    "operationId": "list_things",
                    "parameters": [
                        {
                            "name": "limit",
                            "in": "query",
                            "required": False,
                            "schema": {"type": "integer", "maximum": 100},
                        }
                    ],
                    "responses": {
                        "200": {
                            "description": "Things",
                            "headers": {"ETag": {"schema": {"type": "string"}}},
                            "content": {
                                "application/json": {
                                    "schema": {"$ref": "#/components/schemas/Thing"}
                                }
                            },
                        },
                        "404": {"description": "None"},
                    },
                },
                "post": {
                    "operationId": "create_thing",
                    "security": [{"bearer": ["things:write"]}],
                    "requestBody": {
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/NewThing"}
                            }
                        }
                    },
                    "responses": {"201": {"description": "Made"}},
                },
            }
        },
        "components": {"schemas": {"Thing": thing, "NewThing": new}},
    }


def get(document):
    return document["paths"][PLACE]["get"]


def post(document):
    return document["paths"][PLACE]["post"]


def schema(document, name):
    return document["components"]["schemas"][name]["properties"]


BREAKING = {
    "a path is gone": lambda d: d["paths"].clear(),
    "an operation is gone": lambda d: d["paths"][PLACE].pop("get"),
    "an operation has another name": lambda d: get(d).update(operationId="things"),
    "a parameter is gone": lambda d: get(d)["parameters"].clear(),
    "a new parameter is required": lambda d: get(d)["parameters"].append(
        {"name": "q", "in": "query", "required": True, "schema": {"type": "string"}}
    ),
    "a parameter becomes required": lambda d: get(d)["parameters"][0].update(
        required=True
    ),
    "a parameter takes less": lambda d: get(d)["parameters"][0]["schema"].update(
        maximum=50
    ),
    "a status is gone": lambda d: get(d)["responses"].pop("404"),
    "a header is gone": lambda d: get(d)["responses"]["200"].pop("headers"),
    "an answer has another type": lambda d: get(d)["responses"]["200"].update(
        content={"text/csv": {"schema": {"type": "string"}}}
    ),
    "a token is needed": lambda d: get(d).update(security=[{"bearer": []}]),
    "another scope is needed": lambda d: post(d).update(
        security=[{"bearer": ["things:write", "things:admin"]}]
    ),
    "a body is needed": lambda d: post(d)["requestBody"].update(required=True),
    "no body is taken": lambda d: post(d).pop("requestBody"),
    "a media type is taken no more": lambda d: post(d)["requestBody"].update(
        content={"text/csv": {"schema": {"type": "string"}}}
    ),
    "a field of the body is required": lambda d: d["components"]["schemas"][
        "NewThing"
    ].update(required=["name", "kind"]),
    "a new field of the body is required": lambda d: d["components"]["schemas"][
        "NewThing"
    ].update(
        required=["name", "more"],
        properties={**schema(d, "NewThing"), "more": {"type": "string"}},
    ),
    "a field of the body is gone": lambda d: schema(d, "NewThing").pop("kind"),
    "a field of the body is shorter": lambda d: schema(d, "NewThing")["name"].update(
        maxLength=8
    ),
    "a field of the body has a pattern": lambda d: schema(d, "NewThing")["name"].update(
        pattern="^a"
    ),
    "a field of the body has another type": lambda d: schema(d, "NewThing").update(
        name={"type": "integer"}
    ),
    "a value of the body is taken no more": lambda d: schema(d, "NewThing")["kind"][
        "anyOf"
    ][0].update(enum=["a"]),
    "null is taken no more": lambda d: schema(d, "NewThing")["kind"]["anyOf"].pop(),
    "a list of the body is shorter": lambda d: schema(d, "NewThing")["tags"].update(
        maxItems=4
    ),
    "items of the body are narrower": lambda d: schema(d, "NewThing")["tags"][
        "items"
    ].update(minLength=1),
    "a field of the answer is gone": lambda d: schema(d, "Thing").pop("size"),
    "a field of the answer may be missing": lambda d: d["components"]["schemas"][
        "Thing"
    ].update(required=["id"]),
    "a field of the answer may be null": lambda d: schema(d, "Thing")["state"].update(
        type=["string", "null"]
    ),
    "a field of the answer has another type": lambda d: schema(d, "Thing").update(
        size={"type": "string"}
    ),
    "a field of the answer has a new value": lambda d: schema(d, "Thing")[
        "state"
    ].update(enum=["new", "old", "lost"]),
    "a field of the answer grows beyond": lambda d: schema(d, "Thing")["size"].update(
        maximum=10
    ),
    "a field of the answer loses its format": lambda d: schema(d, "Thing")["id"].pop(
        "format"
    ),
}
HARMLESS = {
    "nothing": lambda d: None,
    "a new path": lambda d: d["paths"].update({"/api/v1/more": {"get": get(d)}}),
    "a new operation": lambda d: d["paths"][PLACE].update(delete=get(d)),
    "a new optional parameter": lambda d: get(d)["parameters"].append(
        {"name": "q", "in": "query", "required": False, "schema": {"type": "string"}}
    ),
    "a parameter that takes more": lambda d: get(d)["parameters"][0]["schema"].update(
        maximum=500
    ),
    "a new status": lambda d: get(d)["responses"].update({"410": {"description": ""}}),
    "a new header": lambda d: get(d)["responses"]["200"]["headers"].update(Link={}),
    "another media type": lambda d: get(d)["responses"]["200"]["content"].update(
        {"text/csv": {"schema": {"type": "string"}}}
    ),
    "a token that is needed no more": lambda d: post(d).pop("security"),
    "a new optional field of the body": lambda d: schema(d, "NewThing").update(
        more={"type": "string"}
    ),
    "a field of the body that need not be": lambda d: d["components"]["schemas"][
        "NewThing"
    ].update(required=[]),
    "a longer field of the body": lambda d: schema(d, "NewThing")["name"].update(
        maxLength=10
    ),
    "a new value in the body": lambda d: schema(d, "NewThing")["kind"]["anyOf"][
        0
    ].update(enum=["a", "b", "c"]),
    "a new field of the answer": lambda d: schema(d, "Thing").update(
        more={"type": "string"}
    ),
    "a field of the answer that is always there": lambda d: d["components"]["schemas"][
        "Thing"
    ].update(required=["id", "state", "size"]),
    "fewer values in the answer": lambda d: schema(d, "Thing")["state"].update(
        enum=["new"]
    ),
    "another description": lambda d: get(d).update(description="All of them."),
    "a schema with another name": lambda d: (
        d["components"]["schemas"].update(Item=d["components"]["schemas"]["Thing"])
        or get(d)["responses"]["200"]["content"]["application/json"].update(
            schema={"$ref": "#/components/schemas/Item"}
        )
    ),
}


def changed(change):
    document = copy.deepcopy(things())
    change(document)
    return document


class TestBreaking:
    @pytest.mark.parametrize("change", BREAKING.values(), ids=BREAKING)
    def test_is_seen(self, change):
        from flagonapi import changes

        assert len(changes.breaking(things(), changed(change))) >= 1

    @pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
    def test_is_not_seen_where_nothing_breaks(self, change):
        from flagonapi import changes

        assert changes.breaking(things(), changed(change)) == []

    @pytest.mark.parametrize("change", BREAKING.values(), ids=BREAKING)
    def test_survives_what_is_left_out_of_the_kept_contract(self, change):
        from flagonapi import changes

        kept = changes.contract(things())

        assert changes.breaking(kept, changed(change))
        assert changes.breaking(kept, things()) == []

    def test_says_where_it_is(self):
        from flagonapi import changes

        new = changed(BREAKING["a field of the body is required"])

        assert changes.breaking(things(), new) == [
            f"POST {PLACE}: body.kind: is required"
        ]

    def test_needs_a_higher_first_number(self):
        from flagonapi.__main__ import complaints

        new = changed(BREAKING["an operation is gone"])
        assert complaints(things(), new)
        new["info"]["version"] = "1.1.0"
        assert complaints(things(), new)
        new["info"]["version"] = "2.0.0"
        assert complaints(things(), new) == []


class TestRelease:
    RELEASED = ROOT / "docs/api/released.json"

    def test_is_kept_by_what_the_code_does_now(self):
        from flagonapi import merge
        from flagonapi.__main__ import complaints

        released = json.loads(self.RELEASED.read_text())

        assert complaints(released, merge.merged()) == []

    def test_itself_breaks_no_promise_of_the_commit_before(self):
        """Nobody gets round the check by writing down another promise."""
        from flagonapi import changes
        from flagonapi.__main__ import complaints

        before = _committed("HEAD^1:docs/api/released.json")
        if before is None:
            # A first commit, or a clone without history: what was promised before cannot
            # be known. The checkouts of CI have their history.
            pytest.skip("the commit before is not here, or has no release")
        now = json.loads(self.RELEASED.read_text())

        assert complaints(before, now) == []
        assert changes.major(now) >= changes.major(before)


def _committed(name):
    if shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "show", name], check=False, cwd=ROOT, capture_output=True, text=True
    )
    return json.loads(done.stdout) if done.returncode == 0 else None
