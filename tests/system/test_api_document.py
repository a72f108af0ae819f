"""The one document of all services says what the code does, and is kept beside it."""

import json
import re

import pytest
from jsonschema_rs import Draft202012Validator
from openapi_spec_validator import validate

from flagon_chassis.errors import Failure

from .conftest import ROOT

SERVICES = ("auth", "catalog", "realtime", "worker")


@pytest.fixture(scope="session")
def document():
    from flagonapi import merge

    return merge.merged()


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def bodies(document):
    """Yield where, and each JSON content with its example."""
    for path, method, operation in operations(document):
        found = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for what, body in found.items():
            for kind, content in body.get("content", {}).items():
                if kind.endswith("json"):
                    yield f"{method} {path} {what}", content


def fits(document, schema, value):
    whole = {**schema, "components": document["components"]}
    return [error.message for error in Draft202012Validator(whole).iter_errors(value)]


class TestDocument:
    def test_is_valid_openapi_3_1(self, document):
        validate(document)

    def test_is_the_one_that_is_kept(self, document):
        kept = json.loads((ROOT / "docs/api/openapi.json").read_text())

        assert kept == document, "Next: make api"

    def test_is_the_same_whenever_it_is_made(self, document):
        from flagonapi import merge

        merge.documents.cache_clear()

        assert json.dumps(merge.merged()) == json.dumps(document)

    def test_has_every_route_of_every_service(self, document, apps):
        # What only our own services call is nobody's promise.
        inside = ("/api/v1/notices", "/api/v1/mails")
        routes = {
            (re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule), method.lower())
            for service in SERVICES
            for rule in apps[service].url_map.iter_rules()
            if rule.rule.startswith("/api/") and not rule.rule.startswith(inside)
            for method in rule.methods - {"HEAD", "OPTIONS"}
        }

        assert {(path, method) for path, method, _ in operations(document)} == routes

    def test_names_no_host(self, document):
        assert [server["url"] for server in document["servers"]] == ["/"]

    def test_names_each_operation_once_and_groups_it(self, document):
        ids = [operation["operationId"] for _, _, operation in operations(document)]
        groups = {tag for group in document["x-tagGroups"] for tag in group["tags"]}

        assert len(ids) == len(set(ids))
        assert all(re.fullmatch("[a-z]+(_[a-z]+)+", name) for name in ids)
        assert all(
            set(operation["tags"]) <= groups and operation["tags"]
            for _, _, operation in operations(document)
        )


class TestExamples:
    def test_stand_beside_every_body_and_fit_its_schema(self, document):
        wrong = {}
        for place, content in bodies(document):
            if "Problem" in str(content["schema"]):
                continue
            found = fits(document, content["schema"], content.get("example", ...))
            if found:
                wrong[place] = found

        assert wrong == {}

    def test_of_problems_fit_the_schema_of_problems(self, document):
        schema = document["components"]["schemas"]["Problem"]
        examples = document["components"]["examples"]

        assert all(
            not fits(document, schema, one["value"]) for one in examples.values()
        )


class TestProblems:
    def test_are_at_every_operation_by_their_slugs(self, document):
        for path, method, operation in operations(document):
            responses = operation["responses"]
            for status, response in responses.items():
                if status == "default" or status >= "400":
                    kinds = set(response["content"])
                    if path == "/api/v1/graphql":
                        kinds.discard("application/graphql-response+json")
                    assert kinds == {"application/problem+json"}
                    assert response["description"]
            named = set(
                responses["503"]["content"]["application/problem+json"]["examples"]
            )
            assert "dependency-down" in named, (path, method)
            assert "429" in responses

    def test_that_are_named_are_explained_and_have_their_status(self, document):
        explained = (ROOT / "docs/problems.md").read_text()
        for slug, one in document["components"]["examples"].items():
            assert f"\n### {slug}\n" in explained
            text = explained.split(f"\n### {slug}\n")[1].lstrip()
            assert text.startswith(str(one["value"]["status"])), slug

    def test_of_the_domain_are_found_where_they_are_raised(self, document):
        expected = {
            ("post", "/api/v1/products", "409"): {"sku-taken", "slug-taken"},
            ("post", "/api/v1/products/{product_id}/reservations", "409"): {
                "stock-short",
                "twin-in-progress",
            },
            ("patch", "/api/v1/products/{product_id}", "412"): {"version-stale"},
            ("post", "/api/v1/jobs", "422"): {"kind-unknown", "idempotency-key-reused"},
            ("get", "/api/v1/events", "422"): {"topic-unknown"},
            ("post", "/api/v1/users", "409"): {"email-taken"},
        }
        for (method, path, status), slugs in expected.items():
            content = document["paths"][path][method]["responses"][status]["content"]
            assert slugs <= set(content["application/problem+json"]["examples"])

    def test_are_all_failures_of_ours(self, document):
        known, todo = set(), [Failure]
        while todo:
            for found in todo.pop().__subclasses__():
                known.add(found.slug())
                todo.append(found)

        assert set(document["components"]["examples"]) <= known
