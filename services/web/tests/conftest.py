"""The web app before stand-ins of the other services, which answer over real sockets."""

import importlib
import re
import threading
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from html import escape, unescape
from json import dumps, loads
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID, uuid4

import pytest
import redis
from flask import Blueprint, Flask, Response, jsonify, redirect, request
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from werkzeug.serving import BaseWSGIServer, make_server

from flagon_web import app as app_module
from flagon_web.app import create_app
from flagon_web.clients.sessions import RedisSessions
from flagon_web.settings import Settings

ISSUER = "http://localhost"
SCOPES = {
    "customer": "openid profile email offline_access reviews:write jobs:read",
    "merchandiser": "openid profile email offline_access reviews:write jobs:read"
    " catalog:write jobs:write",
    "operator": "openid profile email offline_access reviews:write jobs:read"
    " catalog:write jobs:write ops:read jobs:manage",
    "admin": "openid profile email offline_access reviews:write jobs:read"
    " catalog:write jobs:write ops:read jobs:manage users:read users:write"
    " catalog:purge",
}
# No role, but a token may hold less than its owner's roles allow.
SCOPES["reader"] = SCOPES["operator"] + " users:read"
OWN_ID = "11111111-1111-4111-8111-111111111111"
"""Of the account of the administrator who is signed in."""
REVIEWER = "11111111-2222-4333-8444-555555555555"
KINDS = [
    {"kind": "import", "title": "", "scope": "jobs:write", "takes_file": True},
    {"kind": "export", "title": "", "scope": "catalog:write", "takes_file": False},
    {"kind": "probe", "title": "", "scope": "jobs:manage", "takes_file": False},
]
_KEY = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})


def problem(status: int, detail: str = "", **more: Any) -> Response:
    body = {"type": "about:blank", "title": "No", "status": status, "detail": detail}
    body |= more
    return Response(dumps(body), status, mimetype="application/problem+json")


def make_product(name: str = "The Hobbit", **members: Any) -> dict[str, Any]:
    product_id = str(uuid4())
    return {
        "id": product_id,
        "sku": f"sku-{product_id[:8]}",
        "slug": re.sub(r"\W+", "-", name.lower()).strip("-") or "x",
        "name": name,
        "description": "",
        "price_minor": 1299,
        "currency": "EUR",
        "status": "active",
        "stock": 5,
        "available": members.get("stock", 5),
        "category": "books",
        "attributes": {"authors": "J.R.R. Tolkien"},
        "version": 1,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
        **members,
    }


def make_category(name: str, **members: Any) -> dict[str, Any]:
    slug = members.get("slug") or name.lower().replace(" ", "-")
    return {
        "id": str(uuid4()),
        "name": name,
        "description": "",
        "parent": None,
        "attribute_schema": None,
        "path": [slug],
        "version": 1,
        **members,
        "slug": slug,
    }


def make_picture(**members: Any) -> dict[str, Any]:
    picture_id = str(uuid4())
    return {
        "id": picture_id,
        "alt": "",
        "position": 0,
        "width": 800,
        "height": 600,
        "url": f"/media/{picture_id}/full.webp",
        "thumbnails": [
            {"width": width, "height": 3, "url": f"/media/{picture_id}/{width}.webp"}
            for width in (480, 160)
        ],
        "version": 1,
        **members,
    }


def make_review(product_id: str, **members: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "product_id": product_id,
        "subject": None,
        "author": "Ada",
        "rating": 4,
        "title": "Keeps tea warm",
        "body": "Two *hours*.",
        "body_html": "<p>Two <em>hours</em>.</p>",
        "state": "published",
        "note": None,
        "version": 1,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
        **members,
    }


def make_job(state: str = "running", **members: Any) -> dict[str, Any]:
    finished = state in {"succeeded", "failed", "cancelled"}
    return {
        "id": str(uuid4()),
        "kind": "import",
        "state": state,
        "progress": {
            "done": 500,
            "total": 1000,
            "unit": "rows",
            "message": "Importing",
        },
        "result": None,
        "error": None,
        "attempts": 1,
        "artefacts": [],
        "params": {"dry_run": False},
        "upload": {"name": "books.csv", "bytes": 9},
        "cancel_requested": False,
        "owner": "me",
        "created_at": "2026-01-02T03:04:05Z",
        "started_at": "2026-01-02T03:04:06Z",
        "finished_at": "2026-01-02T03:04:16Z" if finished else None,
        "version": 3,
        **members,
    }


@dataclass
class Platform:
    """What the other services hold and how they behave in this test."""

    url: str = ""
    products: dict[str, dict[str, Any]] = field(default_factory=dict)
    categories: list[dict[str, Any]] = field(
        default_factory=lambda: [make_category("Books")]
    )
    reviews: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    """Of every job, newest first."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Of every job, oldest first."""
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    import_profiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    webhooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    watches: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of every account, by their products."""
    most_watches: int = 100
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    """Of every webhook, newest first."""
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    clients: dict[str, dict[str, Any]] = field(default_factory=dict)
    signing_keys: list[dict[str, Any]] = field(default_factory=list)
    audit: list[dict[str, Any]] = field(default_factory=list)
    job_audit: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    """Of every account, the latest first."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Of every account, newest first."""
    mailed: list[str] = field(default_factory=list)
    """Accounts that were mailed a link."""
    frozen: tuple[int, str] | None = None
    """The status and detail of every PATCH."""
    last_administrator: bool = False
    """Whether every account is the last that may change others."""
    keys: list[str] = field(default_factory=list)
    """Idempotency keys of what was made or run."""
    silent: set[str] = field(default_factory=set)
    """Ends of paths that answer 503."""
    uploads: list[dict[str, Any]] = field(default_factory=list)
    highlights: dict[str, dict[str, str]] = field(default_factory=dict)
    """By the ids of products: what is said of each search instead of the truth."""
    corrected: dict[str, str] = field(default_factory=dict)
    """By words that find nothing: what is searched for instead."""
    pictures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By the ids of their products."""
    stubborn: bool = False
    """Whether somebody is always faster than a change of a product."""
    counted: bool = True
    """Whether all products of a list were counted."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    down: set[str] = field(default_factory=set)
    """Services that answer 503 to everything."""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By service: the status and detail of every answer."""
    problems: list[dict[str, str]] = field(default_factory=list)
    """What each refusal says of the fields."""
    garbled: set[str] = field(default_factory=set)
    """Services whose readiness is no JSON."""
    role: str = "merchandiser"
    name: str = "Mira Merchandiser"
    issuer: str = ISSUER
    expires_in: int = 300
    id_token_claims: dict[str, Any] = field(default_factory=dict)
    id_token_key: RSAKey = field(default_factory=lambda: _KEY)
    published_key: RSAKey = field(default_factory=lambda: _KEY)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    refreshes: int = 0
    revoked: list[str] = field(default_factory=list)
    refresh_seconds: float = 0.0
    rotate: bool = True

    def add(self, *products: dict[str, Any]) -> dict[str, Any]:
        for product in products:
            self.products[product["id"]] = product
        return products[-1]

    def add_job(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs[job["id"]] = job
        return job

    def add_schedule(self, schedule: dict[str, Any]) -> dict[str, Any]:
        self.schedules[schedule["id"]] = schedule
        return schedule

    def add_webhook(self, webhook: dict[str, Any]) -> dict[str, Any]:
        self.webhooks[webhook["id"]] = webhook
        return webhook

    def tokens(self, nonce: str | None) -> Response:
        now = int(time.time())
        access = f"access-{uuid4().hex}"
        refresh = f"refresh-{uuid4().hex}"
        self.refresh_tokens.add(refresh)
        body = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": self.expires_in,
            "scope": SCOPES[self.role],
        }
        if self.rotate or nonce:
            body["refresh_token"] = refresh
        if nonce:
            claims = {
                "iss": self.issuer,
                "aud": "web",
                "sub": "user-1",
                "name": self.name,
                "email": f"{self.role}@flagon.test",
                "roles": [self.role],
                "nonce": nonce,
                "iat": now,
                "exp": now + 300,
                **self.id_token_claims,
            }
            header = {"alg": "RS256", "kid": self.id_token_key.kid}
            body["id_token"] = jwt.encode(
                header, claims, self.id_token_key, algorithms=["RS256"]
            )
        return jsonify(body)


def stand_in(platform: Platform) -> Flask:  # noqa: PLR0915 (one route after another)
    """An app that answers for auth, catalog, worker and realtime as they would."""
    app = Flask("stand_in")
    service_of = {
        "/api/v1/products": "catalog",
        "/api/v1/categories": "catalog",
        "/api/v1/jobs": "worker",
        "/api/v1/schedules": "worker",
        "/api/v1/import-profiles": "worker",
        "/api/v1/webhooks": "worker",
        "/api/v1/watches": "worker",
        "/api/v1/users": "auth",
        "/api/v1/clients": "auth",
        "/api/v1/keys": "auth",
        "/api/v1/audit": "catalog",
        "/oauth": "auth",
        "/.well-known": "auth",
    }

    @app.before_request
    def behave() -> Response | None:
        platform.calls.append((request.method, request.full_path.rstrip("?")))
        path = request.path
        if path == "/readyz":
            # All services share this server; their probes are told apart by the port
            # in production and by nothing here.
            return jsonify(status="ready", checks={"postgres": {"ok": True, "ms": 0.8}})
        service = next(
            (name for start, name in service_of.items() if path.startswith(start)),
            path.split("/")[1],
        )
        if path.endswith(tuple(platform.silent)):
            return problem(503)
        if platform.frozen and request.method == "PATCH":
            return problem(*platform.frozen)
        if service in platform.refuse:
            more = {"errors": platform.problems} if platform.problems else {}
            return problem(*platform.refuse[service], **more)
        if service in platform.down:
            if service in platform.garbled:
                return Response("<html>", 502)
            return problem(503)
        return None

    @app.get("/<service>/readyz")
    def readyz(service: str) -> Response:
        return jsonify(
            status="ready",
            checks={"postgres": {"ok": True, "required": True, "ms": 0.8}},
        )

    @app.get("/gateway/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    # -- auth --

    @app.get("/.well-known/openid-configuration")
    def configuration() -> Response:
        public = "http://localhost"
        return jsonify(
            issuer=platform.issuer,
            authorization_endpoint=f"{public}/oauth/authorize",
            token_endpoint=f"{public}/oauth/token",
            revocation_endpoint=f"{public}/oauth/revoke",
            end_session_endpoint=f"{public}/oauth/end_session",
            jwks_uri=f"{public}/.well-known/jwks.json",
        )

    @app.get("/.well-known/jwks.json")
    def jwks() -> Response:
        keys = KeySet([platform.published_key])
        return jsonify(keys.as_dict(private=False))

    @app.get("/oauth/authorize")
    def authorize() -> Any:
        code = uuid4().hex
        platform.codes[code] = request.args.to_dict()
        answer = {"code": code, "state": request.args["state"], "iss": platform.issuer}
        return redirect(f"{request.args['redirect_uri']}?{urlencode(answer)}", 303)

    @app.get("/oauth/end_session")
    def end_session() -> Any:
        return redirect(request.args["post_logout_redirect_uri"], 303)

    @app.post("/oauth/revoke")
    def revoke() -> Any:
        platform.revoked.append(request.form["token"])
        return ""

    @app.post("/oauth/token")
    def token() -> Response:
        assert request.authorization is not None
        assert request.authorization.parameters["username"] == "web"
        form = request.form
        if form["grant_type"] == "refresh_token":
            time.sleep(platform.refresh_seconds)
            platform.refreshes += 1
            if form["refresh_token"] not in platform.refresh_tokens:
                return problem(400, "invalid_grant")
            if platform.rotate:
                platform.refresh_tokens.discard(form["refresh_token"])
            return platform.tokens(None)
        begun = platform.codes.pop(form["code"], None)
        digest = urlsafe_b64encode(sha256(form["code_verifier"].encode()).digest())
        if (
            begun is None
            or digest.rstrip(b"=").decode() != begun["code_challenge"]
            or form["redirect_uri"] != begun["redirect_uri"]
        ):
            return problem(400, "invalid_grant")
        return platform.tokens(begun["nonce"])

    # -- catalog --

    @app.get("/api/v1/products")
    def products() -> Response:
        found, told = list(platform.products.values()), {}
        if request.args.get("category"):
            found = [p for p in found if p["category"] == request.args["category"]]
        if request.args.get("q"):
            q = request.args["q"].lower()
            if not any(char.isalnum() for char in q):
                return problem(422, "Nothing to search for.")
            meant = platform.corrected.get(q, q)
            found = [p for p in found if meant in dumps(p, ensure_ascii=False).lower()]
            told = {} if meant == q else {"corrected": meant}
        if request.args.get("tag"):
            found = [p for p in found if request.args["tag"] in p.get("tags", [])]
        if request.args.get("in_stock"):
            found = [p for p in found if p["available"]]
        if request.args.get("status", "any") != "any":
            found = [p for p in found if p["status"] == request.args["status"]]
        if request.args.get("facets"):
            tags = Counter(tag for p in found for tag in p.get("tags", []))
            counts = {"category": Counter(p["category"] for p in found), "tag": tags}
            counts["status"] = Counter(p["status"] for p in found)
            told["facets"] = {"complete": platform.counted} | {
                name: [{"value": v, "count": n} for v, n in counts[name].items()]
                for name in request.args["facets"].split(",")
            }
        start, limit = int(request.args.get("cursor", 0)), int(request.args["limit"])
        after = start + limit
        cursor = str(after) if after < len(found) else None
        if request.args.get("highlight") and request.args.get("q"):
            words = re.compile(f"({re.escape(escape(meant))})", re.IGNORECASE)
            told["highlights"] = platform.highlights or {
                p["id"]: {
                    name: words.sub(r"<mark>\1</mark>", escape(p[name]))
                    for name in ("name", "description")
                }
                for p in found[start:after]
            }
        return jsonify(items=found[start:after], next_cursor=cursor, **told)

    @app.get("/api/v1/products/by-slug/<slug>")
    def product_by_slug(slug: str) -> Response:
        for found in platform.products.values():
            if found["slug"] == slug:
                return product(found["id"])
        return problem(404, "There is no such product.")

    @app.get("/api/v1/products/<product_id>")
    def product(product_id: str) -> Response:
        if product_id not in platform.products:
            return problem(404, "There is no such product.")
        found = platform.products[product_id]
        return jsonify(found), 200, {"ETag": f'"{found["version"]}"'}  # type: ignore[return-value]

    @app.patch("/api/v1/products/<product_id>")
    def change_product(product_id: str) -> Response:
        found = platform.products[product_id]
        if not request.headers.get("Authorization", "").startswith("Bearer access-"):
            return problem(401)
        fresh = request.headers["If-Match"] == f'"{found["version"]}"'
        if platform.stubborn:
            found["version"] += 1
        if platform.stubborn or not fresh:
            return problem(412)
        if request.get_json().get("price_minor", 0) > 100_000_000:
            return problem(422, "The price is too high.")
        if refused := judged_product(platform, request.get_json(), found):
            return refused
        found.update({"category": None} | patched(found, request.get_json()))
        found["version"] += 1
        return jsonify(found)

    stand_in_products(app, platform)
    stand_in_categories(app, platform)
    stand_in_pictures(app, platform)
    stand_in_reviews(app, platform)
    stand_in_jobs(app, platform)
    stand_in_dead(app, platform)
    stand_in_schedules(app, platform)
    stand_in_profiles(app, platform)
    stand_in_webhooks(app, platform)
    stand_in_watches(app, platform)
    stand_in_users(app, platform)
    stand_in_clients(app, platform)
    stand_in_keys(app, platform)
    stand_in_audit(app, platform)
    return app


def patched(target: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = patched(result.get(name), value)
    return result


def judged_product(
    platform: Platform, fields: dict[str, Any], own: dict[str, Any] | None = None
) -> Response | None:
    """Refuse what the catalog would refuse of a product."""
    wrong = []
    if fields.get("sku", "x").startswith("-"):
        wrong.append(("#/sku", "String should match a pattern"))
    if fields.get("price_minor", 0) > 10_000_000:
        wrong.append(("#/price_minor", "is too much"))
    if "no-such-tag" in fields.get("tags", []):
        wrong.append(("#/tags/0", "There is no tag no-such-tag."))
    if fields.get("attributes", {}).get("colour") == "loud":
        wrong.append(("#/attributes/colour", "is not one of blue"))
    if fields.get("description") == "nothing but errors":
        wrong.append(("#", "It is no product."))
    status = 422
    others = [one for one in platform.products.values() if one is not own]
    if any(one["sku"] == fields.get("sku") for one in others):
        wrong, status = [("#/sku", "It is in use.")], 409
    errors = [{"pointer": pointer, "detail": detail} for pointer, detail in wrong]
    return problem(status, "No.", errors=errors) if errors else None


def judged_item(found: dict[str, Any], item: dict[str, Any]) -> list[dict[str, str]]:
    """Return what the catalog would refuse of an item of a bulk upsert."""
    wrong = {}
    if not found and len(item) > 1:
        wrong["name"] = "A new product needs it."
    elif item.get("version", found.get("version")) != found.get("version"):
        wrong["version"] = f"Its version is {found['version']}."
    elif item.get("price_minor", 0) > 10_000_000:
        wrong["price_minor"] = "is too much"
    elif item.get("stock", 1_000) < found.get("stock", 0) - found.get("available", 0):
        wrong["stock"] = "Some are held for reservations."
    return [{"pointer": f"#/{name}", "detail": why} for name, why in wrong.items()]


def stand_in_products(app: Flask, platform: Platform) -> None:
    """Give the app what merchandisers do at the catalog's products."""

    @app.post("/api/v1/products")
    def create_product() -> Any:
        if refused := judged_product(platform, request.get_json()):
            return refused
        platform.keys.append(request.headers["Idempotency-Key"])
        fields = dict(request.get_json())
        made = platform.add(make_product(fields.pop("name"), **fields))
        return jsonify(made), 201, {"ETag": '"1"'}

    @app.delete("/api/v1/products/<product_id>")
    def archive_product(product_id: str) -> Any:
        found = platform.products[product_id]
        if request.headers["If-Match"] != f'"{found["version"]}"':
            return problem(412)
        found.update(status="archived", version=found["version"] + 1)
        return "", 204

    @app.post("/api/v1/products/bulk")
    def upsert_products() -> Response:
        sent = request.get_json()
        dry = sent.get("dry_run", False)
        if not dry:
            platform.keys.append(request.headers["Idempotency-Key"])
        results = []
        for index, item in enumerate(sent["items"]):
            found = next(
                (p for p in platform.products.values() if p["sku"] == item["sku"]), {}
            )
            fields = {n: v for n, v in item.items() if n not in {"sku", "version"}}
            errors = judged_item(found, item)
            outcome = "refused" if errors else "unchanged"
            if not errors and not fields.items() <= found.items():
                outcome = "updated"
                if not dry:
                    more = fields.get("stock", found["stock"]) - found["stock"]
                    also = {"available": found["available"] + more}
                    found.update(fields | also, version=found["version"] + 1)
            told = {"sku": item["sku"], "outcome": outcome, "errors": errors}
            if dry or "version" in item:
                told["present"] = found or None
            results.append({"index": index, **told})
        counts = Counter(one["outcome"] for one in results)
        return jsonify(results=results, summary=counts)


def stand_in_categories(app: Flask, platform: Platform) -> None:
    """Give the app the catalog's categories."""

    def find(id_: str) -> dict[str, Any] | None:
        return next((one for one in platform.categories if one["id"] == id_), None)

    def placed(one: dict[str, Any]) -> Response | None:
        """Give a category its path, or refuse its place."""
        above = {c["slug"]: c for c in platform.categories}.get(one["parent"])
        if one["parent"] is not None and above is None:
            wrong = {"pointer": "#/parent", "detail": "There is no such category."}
            return problem(422, "No.", errors=[wrong])
        path = above["path"] if above else []
        if one["slug"] in path:
            return problem(409, f"{one['parent']} is in {one['slug']} or the same.")
        one["path"] = [*path, one["slug"]]
        return None

    def judged(fields: dict[str, Any]) -> Response | None:
        """Refuse a schema that asks for a type which there is not."""
        properties = (fields.get("attribute_schema") or {}).get("properties", {})
        wrong = [
            {
                "pointer": f"#/attribute_schema/properties/{name}/type",
                "detail": "It is none of the types.",
            }
            for name, asked in properties.items()
            if asked.get("type") == "colour"
        ]
        return problem(422, "No.", errors=wrong) if wrong else None

    @app.get("/api/v1/categories")
    def categories() -> Response:
        return listed(platform.categories)

    @app.post("/api/v1/categories")
    def create_category() -> Any:
        made = make_category(**request.get_json())
        if refused := judged(made):
            return refused
        if any(one["slug"] == made["slug"] for one in platform.categories):
            wrong = {"pointer": "#/slug", "detail": "It is in use."}
            return problem(409, "No.", errors=[wrong])
        if refused := placed(made):
            return refused
        platform.keys.append(request.headers["Idempotency-Key"])
        platform.categories.append(made)
        return tagged(made, 201)

    @app.get("/api/v1/categories/<id_>")
    def category(id_: str) -> Any:
        found = find(id_)
        return tagged(found) if found else problem(404)

    @app.put("/api/v1/categories/<id_>")
    @app.patch("/api/v1/categories/<id_>")
    def change_category(id_: str) -> Any:
        found = find(id_)
        assert found is not None
        if refused := stale(found) or judged(request.get_json()):
            return refused
        assert request.get_json().get("slug", found["slug"]) == found["slug"]
        changed = {**found, **request.get_json()}
        if refused := placed(changed):
            return refused
        found.update(changed, version=found["version"] + 1)
        return tagged(found)

    @app.delete("/api/v1/categories/<id_>")
    def delete_category(id_: str) -> Any:
        found = find(id_)
        assert found is not None
        if refused := stale(found):
            return refused
        if any(p["category"] == found["slug"] for p in platform.products.values()):
            return problem(409, "Move its products to another category first.")
        platform.categories.remove(found)
        return "", 204


def stand_in_pictures(app: Flask, platform: Platform) -> None:
    """Give the app the catalog's images."""

    def of(product_id: str) -> list[dict[str, Any]]:
        return platform.pictures.setdefault(product_id, [])

    def find(product_id: str, id_: str) -> dict[str, Any] | None:
        return next((one for one in of(product_id) if one["id"] == id_), None)

    @app.get("/api/v1/products/<product_id>/images")
    def images(product_id: str) -> Response:
        if product_id not in platform.products:
            return problem(404)
        for position, one in enumerate(of(product_id)):
            one["position"] = position
        return jsonify(items=of(product_id), next_cursor=None)

    @app.post("/api/v1/products/<product_id>/images")
    def add_image(product_id: str) -> Any:
        content, alt = request.files["file"].read(), request.form["alt"]
        if not content.startswith(b"\x89PNG"):
            return problem(415, "Send JPEG, PNG, WebP, GIF or AVIF.")
        if "\u202e" in alt:
            wrong = {"pointer": "#/alt", "detail": "Text must be one line."}
            return problem(422, "No.", errors=[wrong])
        platform.keys.append(request.headers["Idempotency-Key"])
        of(product_id).append(make_picture(alt=alt, content=len(content)))
        return tagged(of(product_id)[-1], 201)

    @app.get("/api/v1/products/<product_id>/images/<id_>")
    def image(product_id: str, id_: str) -> Any:
        found = find(product_id, id_)
        return tagged(found) if found else problem(404)

    @app.patch("/api/v1/products/<product_id>/images/<id_>")
    def change_image(product_id: str, id_: str) -> Any:
        found = find(product_id, id_)
        assert found is not None
        if refused := stale(found):
            return refused
        place = request.get_json().get("position", found["position"])
        of(product_id).remove(found)
        of(product_id).insert(place, found)
        found.update(request.get_json(), version=found["version"] + 1)
        return tagged(found)

    @app.delete("/api/v1/products/<product_id>/images/<id_>")
    def delete_image(product_id: str, id_: str) -> Any:
        found = find(product_id, id_)
        assert found is not None
        if refused := stale(found):
            return refused
        of(product_id).remove(found)
        return "", 204


def listed(items: list[dict[str, Any]], default: int = 20) -> Response:
    """Answer a page of them, as the cursor and the limit of the request say."""
    start = int(request.args.get("cursor", 0))
    after = start + int(request.args.get("limit", default))
    cursor = str(after) if after < len(items) else None
    return jsonify(items=items[start:after], next_cursor=cursor)


def tagged(item: dict[str, Any], status: int = 200) -> Any:
    return jsonify(item), status, {"ETag": f'"v{item["version"]}"'}


def stale(item: dict[str, Any]) -> Response | None:
    """Refuse a change to another version than the present one."""
    if request.headers.get("If-Match") == f'"v{item["version"]}"':
        return None
    return problem(412 if "If-Match" in request.headers else 428, "stale")


def stand_in_reviews(app: Flask, platform: Platform) -> None:
    """Give the app the catalog's reviews; whoever has a token is the same person."""

    def person() -> str | None:
        known = request.headers.get("Authorization", "").startswith("Bearer access-")
        return REVIEWER if known else None

    @app.get("/api/v1/products/<product_id>/reviews")
    def product_reviews(product_id: str) -> Response:
        return listed(
            [
                {**one, "subject": None}
                for one in platform.reviews.values()
                if one["product_id"] == product_id and one["state"] == "published"
            ]
        )

    @app.post("/api/v1/products/<product_id>/reviews")
    def create_review(product_id: str) -> Any:
        if person() is None:
            return problem(401)
        platform.keys.append(request.headers["Idempotency-Key"])
        body = request.get_json()
        if "@" in body["author"]:
            error = {"pointer": "#/author", "detail": "Give a name and not an address."}
            return problem(422, "No.", errors=[error])
        if any(
            (one["subject"], one["product_id"]) == (REVIEWER, product_id)
            for one in platform.reviews.values()
        ):
            kind = "http://localhost/docs/problems#review-exists"
            return problem(409, "Already reviewed.", type=kind)
        made = make_review(product_id, subject=REVIEWER, **body)
        platform.reviews[made["id"]] = made
        return tagged(made, 201)

    @app.get("/api/v1/reviews")
    def reviews() -> Response:
        assert request.args["own"] == "true"
        found = platform.reviews.values()
        return listed([one for one in found if one["subject"] == person()])

    @app.get("/api/v1/reviews/<uuid:review_id>")
    def review(review_id: UUID) -> Any:
        if str(review_id) not in platform.reviews:
            return problem(404)
        return tagged(platform.reviews[str(review_id)])

    @app.patch("/api/v1/reviews/<uuid:review_id>")
    def change_review(review_id: UUID) -> Any:
        found = platform.reviews[str(review_id)]
        if found["subject"] != person():
            return problem(403)
        if refused := stale(found):
            return refused
        found.update(request.get_json(), version=found["version"] + 1)
        return tagged(found)

    @app.delete("/api/v1/reviews/<uuid:review_id>")
    def delete_review(review_id: UUID) -> Any:
        if str(review_id) not in platform.reviews:
            return problem(404)
        if refused := stale(platform.reviews[str(review_id)]):
            return refused
        del platform.reviews[str(review_id)]
        return Response(status=204)


def stand_in_jobs(app: Flask, platform: Platform) -> None:
    """Give the app the worker's jobs API."""
    finished = {"succeeded", "failed", "cancelled"}

    @app.get("/api/v1/jobs")
    def jobs() -> Response:
        found = list(platform.jobs.values())
        for name in ("state", "kind"):
            if name in request.args:
                found = [job for job in found if job[name] == request.args[name]]
        if not request.args.get("cursor", "0").isdigit():
            return jsonify(items=[], next_cursor=None)
        return listed(found)

    @app.get("/api/v1/jobs/kinds")
    def kinds() -> Response:
        return jsonify(items=KINDS)

    @app.post("/api/v1/jobs")
    def create_job() -> Any:
        file = request.files.get("file")
        platform.uploads.append(
            {
                "params": loads(request.form["params"]),
                "kind": request.form["kind"],
                "name": file.filename if file else None,
                "content": file.read() if file else None,
                "key": request.headers["Idempotency-Key"],
            }
        )
        asked = {"kind": request.form["kind"], "params": loads(request.form["params"])}
        job = platform.add_job(make_job("queued", **asked))
        return jsonify(job), 202, {"Location": f"/api/v1/jobs/{job['id']}"}

    @app.get("/api/v1/jobs/<uuid:job_id>")
    def job(job_id: UUID) -> Any:
        if str(job_id) not in platform.jobs:
            return problem(404)
        return tagged(platform.jobs[str(job_id)])

    @app.get("/api/v1/jobs/<uuid:job_id>/attempts")
    def attempts(job_id: UUID) -> Response:
        if str(job_id) not in platform.jobs:
            return problem(404)
        return listed(platform.attempts)

    @app.get("/api/v1/jobs/<uuid:job_id>/log")
    def log(job_id: UUID) -> Response:
        if str(job_id) not in platform.jobs:
            return problem(404)
        return listed(platform.lines)

    @app.post("/api/v1/jobs/<uuid:job_id>/cancel")
    def cancel(job_id: UUID) -> Response:
        job = platform.jobs[str(job_id)]
        if job["state"] in finished:
            return problem(409, "The job has finished already.")
        job["state"] = "cancelled"
        return jsonify(job)

    @app.post("/api/v1/jobs/<uuid:job_id>/retry")
    def retry(job_id: UUID) -> Response:
        job = platform.jobs[str(job_id)]
        if job["state"] not in {"failed", "cancelled"}:
            return problem(409, "The job is on its way.")
        job.update(state="queued", error=None)
        return jsonify(job)

    @app.delete("/api/v1/jobs/<uuid:job_id>")
    def delete_job(job_id: UUID) -> Any:
        job = platform.jobs.get(str(job_id))
        if job is None:
            return problem(404)
        if job["state"] not in finished:
            return problem(409, "Cancel the job before you delete it.")
        refusal = stale(job)
        if refusal is None:
            del platform.jobs[job["id"]]
        return refusal or ("", 204)


def stand_in_dead(app: Flask, platform: Platform) -> None:
    """Give the app the worker's dead letters."""

    def letters() -> list[dict[str, Any]]:
        return [job for job in platform.jobs.values() if job.get("dead")]

    def find(job_id: UUID) -> dict[str, Any] | None:
        return next((job for job in letters() if job["id"] == str(job_id)), None)

    @app.get("/api/v1/jobs/dead")
    def list_dead() -> Response:
        kind = request.args.get("kind")
        return listed([job for job in letters() if kind in {None, job["kind"]}])

    @app.get("/api/v1/jobs/dead/<uuid:job_id>")
    def find_dead(job_id: UUID) -> Any:
        job = find(job_id)
        if job is None:
            return problem(404)
        history = {
            "last_attempts": platform.attempts,
            "last_lines": platform.lines,
        }
        return tagged({**job, **history})

    @app.post("/api/v1/jobs/dead/<uuid:job_id>/replay")
    def replay(job_id: UUID) -> Any:
        job = find(job_id)
        if job is None:
            return problem(404)
        job.update(state="queued", dead=None)
        return jsonify(job), 202

    @app.post("/api/v1/jobs/dead/replay")
    def replay_all() -> Any:
        asked = request.get_json()
        found = [job for job in letters() if asked["kind"] in {None, job["kind"]}]
        for job in found[: asked["limit"]]:
            job.update(state="queued", dead=None)
        done = min(len(found), asked["limit"])
        return jsonify(replayed=done, left=len(found) - done), 202

    @app.delete("/api/v1/jobs/dead/<uuid:job_id>")
    def discard(job_id: UUID) -> Any:
        job = find(job_id)
        if job is None:
            return problem(404)
        refusal = stale(job)
        if refusal is None:
            del platform.jobs[job["id"]]
        return refusal or ("", 204)


def make_schedule(name: str = "nightly", **members: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "name": name,
        "kind": "export",
        "task": None,
        "params": {"format": "csv"},
        "owner": "me",
        "cron": "30 2 * * *",
        "interval_seconds": None,
        "time_zone": "Europe/Berlin",
        "jitter_seconds": 0,
        "catch_up": "once",
        "enabled": True,
        "bounds": None,
        "next_run_at": "2026-01-03T01:30:00Z",
        "last_run_at": None,
        "last_firing": None,
        "version": 1,
        **members,
    }


def stand_in_resources(
    app: Flask,
    platform: Platform,
    kind: str,
    judge: Callable[[dict[str, Any]], Any],
    add: Callable[[dict[str, Any]], dict[str, Any]],
    wanted: Callable[[list[dict[str, Any]]], Response] = listed,
) -> Callable[[object], dict[str, Any]]:
    """Give the app what the APIs of schedules, webhooks and the like have in common.

    :param judge: returns the refusal of what is wrong with some fields, if anything.
    :param add: adds one and returns it as the answer shows it.
    :param wanted: answers a page of those that fit the request.
    :returns: what finds one.
    """
    bp = Blueprint(kind, __name__, url_prefix=f"/api/v1/{kind}")

    def shelf() -> dict[str, Any]:
        found: dict[str, Any] = getattr(platform, kind.replace("-", "_"))
        return found

    def find(id_: object) -> dict[str, Any]:
        found: dict[str, Any] = shelf()[str(id_)]
        return found

    @bp.get("")
    def find_page() -> Response:
        return wanted(list(shelf().values()))

    @bp.post("")
    def create() -> Any:
        refusal = judge(request.get_json())
        if refusal is not None:
            return refusal
        platform.keys.append(request.headers["Idempotency-Key"])
        return tagged(add(request.get_json()), 201)

    @bp.get("/<id_>")
    def find_one(id_: str) -> Any:
        return tagged(find(id_)) if str(id_) in shelf() else problem(404)

    @bp.patch("/<id_>")
    def change(id_: str) -> Any:
        found = find(id_)
        refusal = stale(found) or judge(request.get_json())
        if refusal is not None:
            return refusal
        found.update(request.get_json())
        found["version"] += 1
        return tagged(found)

    @bp.delete("/<id_>")
    def delete(id_: str) -> Any:
        refusal = stale(find(id_))
        if refusal is None:
            del shelf()[str(id_)]
        return refusal or ("", 204)

    app.register_blueprint(bp)
    return find


def stand_in_schedules(app: Flask, platform: Platform) -> None:
    """Give the app the worker's schedules API."""

    def judge(fields: dict[str, Any]) -> Any:
        errors = []
        if fields.get("cron") == "never":
            errors.append({"pointer": "#/cron", "detail": "Value error, no such time"})
        if fields.get("params", {}).get("format") == "pdf":
            errors.append({"pointer": "#/params/format", "detail": "Not known"})
        if fields.get("time_zone") == "Mars/Olympus":
            errors.append({"pointer": "#", "detail": "Value error, nobody lives there"})
        if errors:
            return problem(422, "1 problem(s) in the request.", errors=errors)
        names = {found["name"] for found in platform.schedules.values()}
        if fields.get("name") == "taken" and "taken" in names:
            kind = "http://localhost/docs/problems.md#schedule-name-taken"
            return problem(409, "Another schedule is called taken.", type=kind)
        return None

    found_of = stand_in_resources(
        app,
        platform,
        "schedules",
        judge,
        add=lambda fields: platform.add_schedule(make_schedule(**fields)),
    )

    @app.post("/api/v1/schedules/<uuid:schedule_id>/<step>")
    def switch_schedule(schedule_id: UUID, step: str) -> Any:
        found = found_of(schedule_id)
        if step == "run":
            platform.keys.append(request.headers["Idempotency-Key"])
            return tagged(found, 202)
        found["enabled"] = step == "resume"
        found["version"] += 1
        return tagged(found)


def make_profile(name: str, mapping: dict[str, str], **members: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "name": name,
        "mapping": mapping,
        "defaults": {"currency": "EUR"},
        "encoding": None,
        "delimiter": None,
        "decimals": "auto",
        "version": 1,
        **members,
    }


def stand_in_profiles(app: Flask, platform: Platform) -> None:
    """Give the app the worker's import profiles API."""
    kept = platform.import_profiles

    def judge(fields: dict[str, Any]) -> Any:
        return problem(422, "No such name.") if fields["name"] == "odd" else None

    def add(fields: dict[str, Any]) -> dict[str, Any]:
        made = make_profile(**fields)
        kept[made["id"]] = made
        return made

    find = stand_in_resources(app, platform, "import-profiles", judge, add)

    @app.put("/api/v1/import-profiles/<id_>")
    def replace_profile(id_: str) -> Any:
        refusal = stale(find(id_))
        if refusal is not None:
            return refusal
        find(id_).update(request.get_json(), version=find(id_)["version"] + 1)
        return tagged(find(id_))

    @app.post("/api/v1/import-profiles/suggest")
    def suggest_profiles() -> Response:
        columns = set(request.get_json()["columns"])
        fit = [one for one in kept.values() if columns >= set(one["mapping"].values())]
        return jsonify(items=fit)


def make_webhook(**members: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "url": "https://shop.example.com/hooks",
        "event_types": ["market.flagon.product.*"],
        "description": "The shop's search",
        "enabled": True,
        "owner": "me",
        "circuit": "closed",
        "failures": 0,
        "paused_until": None,
        "previous_secret_until": None,
        "version": 1,
        **members,
    }


def make_delivery(state: str = "delivered", **members: Any) -> dict[str, Any]:
    attempt = {
        "at": "2026-01-02T03:04:06Z",
        "status": 500 if state == "dead" else 204,
        "duration_ms": 42,
        "answer": "",
        "error": None,
    }
    return {
        "id": str(uuid4()),
        "event_id": str(uuid4()),
        "event_type": "market.flagon.product.changed.v1",
        "state": state,
        "attempts": 0 if state == "waiting" else 1,
        "due_at": None,
        "log": [] if state == "waiting" else [attempt],
        "created_at": "2026-01-02T03:04:05Z",
        "ended_at": None,
        **members,
    }


def stand_in_webhooks(app: Flask, platform: Platform) -> None:
    """Give the app the worker's webhooks API."""

    def judge(fields: dict[str, Any]) -> Any:
        if not fields["url"].startswith("https://"):
            errors = [{"pointer": "#/url", "detail": "is not https"}]
            return problem(422, "The URL is not https.", errors=errors)
        if "wrong" in fields["event_types"]:
            errors = [{"pointer": "#/event_types/0", "detail": "No such event"}]
            return problem(422, "1 problem(s) in the request.", errors=errors)
        if len(platform.webhooks) > 1:
            return problem(409, "There are 2 webhooks, and no more may be.")
        return None

    found_of = stand_in_resources(
        app,
        platform,
        "webhooks",
        judge,
        add=lambda fields: (
            platform.add_webhook(make_webhook(**fields)) | {"secret": "whsec_first"}
        ),
    )

    @app.post("/api/v1/webhooks/<uuid:webhook_id>/rotate")
    def rotate_webhook(webhook_id: UUID) -> Any:
        platform.keys.append(request.headers["Idempotency-Key"])
        until = {"previous_secret_until": "2026-01-03T03:04:05Z"}
        return tagged({**found_of(webhook_id), **until, "secret": "whsec_second"})

    @app.post("/api/v1/webhooks/<uuid:webhook_id>/test")
    def test_webhook(webhook_id: UUID) -> Any:
        if not found_of(webhook_id)["enabled"]:
            return problem(409, "Enable the webhook first.")
        kind = "market.flagon.webhook.test.v1"
        platform.deliveries.insert(0, make_delivery("waiting", event_type=kind))
        return jsonify(platform.deliveries[0]), 202

    @app.get("/api/v1/webhooks/<uuid:webhook_id>/deliveries")
    def deliveries(webhook_id: UUID) -> Response:
        state = request.args.get("state")
        return listed([d for d in platform.deliveries if state in {None, d["state"]}])

    @app.post("/api/v1/webhooks/<uuid:webhook_id>/deliveries/<delivery_id>/resend")
    def resend(webhook_id: UUID, delivery_id: str) -> Any:
        for found in platform.deliveries:
            if found["id"] == delivery_id:
                found["state"] = "waiting"
                return jsonify(found), 202
        return problem(404)


def make_watch(product_id: str, **members: Any) -> dict[str, Any]:
    return {
        "product_id": product_id,
        "below_minor": None,
        "currency": None,
        "seen": {"price_minor": 1299, "currency": "EUR"},
        "told_at": None,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
        "version": 1,
        **members,
    }


def stand_in_watches(app: Flask, platform: Platform) -> None:
    """Give the app the worker's watches; whoever has a token is the same person."""

    @app.get("/api/v1/watches")
    def watches() -> Response:
        return listed(list(platform.watches.values()))

    @app.get("/api/v1/watches/<product_id>")
    def watch(product_id: str) -> Any:
        found = platform.watches.get(product_id)
        return tagged(found) if found else problem(404)

    @app.put("/api/v1/watches/<product_id>")
    def watch_product(product_id: str) -> Any:
        wish, found = request.get_json(), platform.watches.get(product_id)
        if product_id not in platform.products:
            return problem(404)
        if (wish.get("below_minor") or 0) > 10_000_000:
            wrong = {"pointer": "#/below_minor", "detail": "is too much"}
            return problem(422, "No.", errors=[wrong])
        wish = {"below_minor": None, "currency": None} | wish
        if found is None:
            if "If-Match" in request.headers:
                return problem(404)
            if len(platform.watches) >= platform.most_watches:
                kind = "http://localhost/docs/problems#watches-too-many"
                return problem(409, "Too many.", type=kind)
            found = platform.watches[product_id] = make_watch(product_id, **wish)
            return tagged(found, 201)
        if refused := stale(found):
            return refused
        found.update(wish, version=found["version"] + 1)
        return tagged(found)

    @app.delete("/api/v1/watches/<product_id>")
    def delete_watch(product_id: str) -> Any:
        if refused := stale(platform.watches[product_id]):
            return refused
        del platform.watches[product_id]
        return "", 204


def make_user(**members: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "email": "ada@flagon.test",
        "name": "Ada Example",
        "roles": ["customer"],
        "disabled": False,
        "version": 1,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
        **members,
    }


def stand_in_users(app: Flask, platform: Platform) -> None:
    """Give the app auth's API of accounts."""

    def judge(fields: dict[str, Any]) -> Any:
        takes = fields.get("disabled") or "admin" not in fields.get("roles", ["admin"])
        if platform.last_administrator and takes:
            kind = "http://localhost/docs/problems#last-administrator"
            return problem(409, "This is the last account.", type=kind)
        return None

    def wanted(items: list[dict[str, Any]]) -> Response:
        asked = request.args
        if "email" in asked and "@" not in asked["email"]:
            kind = "http://localhost/docs/problems#email-invalid"
            return problem(422, "This is not an e-mail address.", type=kind)
        return listed(
            [
                one
                for one in items
                if asked.get("email") in {None, one["email"]}
                and asked.get("role", one["roles"][0]) in one["roles"]
                and asked.get("disabled") in {None, str(one["disabled"]).lower()}
            ]
        )

    stand_in_resources(app, platform, "users", judge, add=dict, wanted=wanted)

    @app.get("/api/v1/users/<account_id>/sessions")
    def user_sessions(account_id: str) -> Response:
        return jsonify(items=platform.sessions)

    @app.delete("/api/v1/users/<account_id>/sessions")
    def end_user_sessions(account_id: str) -> Any:
        platform.sessions.clear()
        return "", 204

    @app.delete("/api/v1/users/<account_id>/sessions/<sid>")
    def end_user_session(account_id: str, sid: str) -> Any:
        for one in platform.sessions:
            if one["sid"] == sid:
                platform.sessions.remove(one)
                return "", 204
        return problem(404)

    @app.get("/api/v1/users/events")
    @app.get("/api/v1/users/<account_id>/events")
    def user_events(account_id: str = "") -> Response:
        return listed(platform.events)

    @app.post("/api/v1/users/<account_id>/password-reset")
    def password_reset(account_id: str) -> Any:
        platform.mailed.append(account_id)
        return "{}", 202


def make_client(**members: Any) -> dict[str, Any]:
    return {
        "id": uuid4().hex[:24],
        "name": "Reading list",
        "redirect_uris": ["https://app.example.com/callback"],
        "post_logout_redirect_uris": [],
        "backchannel_logout_uri": None,
        "grant_types": ["authorization_code", "refresh_token"],
        "scope": "openid profile",
        "token_endpoint_auth_method": "client_secret_basic",
        "jwks": None,
        "id_token_signed_response_alg": "RS256",
        "dpop_bound_access_tokens": False,
        "require_pushed_authorization_requests": False,
        "first_party": False,
        "disabled": False,
        "version": 1,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
        **members,
    }


def stand_in_clients(app: Flask, platform: Platform) -> None:
    """Give the app auth's API of clients."""

    def judge(fields: dict[str, Any]) -> Any:
        if "http://evil.example" in fields["redirect_uris"]:
            errors = [{"pointer": "#/redirect_uris/0", "detail": "must be https"}]
            return problem(422, "1 problem(s) in the request.", errors=errors)
        if "mails:send" in fields["scope"]:
            return problem(403, "You have no mails:send.", scopes=["mails:send"])
        if not fields["redirect_uris"]:
            return problem(422, "A client that signs people in needs a redirect URI.")
        return None

    def add(fields: dict[str, Any]) -> dict[str, Any]:
        made = make_client(**fields)
        platform.clients[made["id"]] = made
        secret = made["token_endpoint_auth_method"] != "none"
        return {**made, "client_secret": "first-secret" if secret else None}

    found_of = stand_in_resources(app, platform, "clients", judge, add)

    @app.post("/api/v1/clients/<client_id>/secret")
    def rotate_client(client_id: str) -> Any:
        assert client_id in platform.clients
        platform.keys.append(request.headers["Idempotency-Key"])
        lasts = request.get_json()["overlap_seconds"]
        until = "2026-01-03T03:04:05Z" if lasts else None
        found_of(client_id)["overlap_seconds"] = lasts
        return jsonify(client_secret="second-secret", previous_works_until=until), 201


def stand_in_keys(app: Flask, platform: Platform) -> None:
    """Give the app auth's API of signing keys."""

    @app.get("/api/v1/keys")
    def list_keys() -> Response:
        return jsonify(items=platform.signing_keys)

    @app.post("/api/v1/keys/rotate")
    def rotate_keys() -> Any:
        last = platform.signing_keys[-1]
        if last["state"] != "pending":
            return problem(409, "The next key is too young.")
        last["state"] = "active"
        return jsonify(items=platform.signing_keys)

    @app.delete("/api/v1/keys/<kid>")
    def drop_key(kid: str) -> Any:
        left = [one for one in platform.signing_keys if one["kid"] != kid]
        if left == platform.signing_keys:
            return problem(404)
        platform.signing_keys[:] = left
        return "", 204


def stand_in_audit(app: Flask, platform: Platform) -> None:
    """Give the app the audits of catalog and worker."""

    def rows(audit: list[dict[str, Any]]) -> Response:
        wanted = {k: v for k, v in request.args.items() if k not in {"limit", "cursor"}}
        first, last = (
            datetime.fromisoformat(wanted.pop(name, default))
            for name, default in (
                ("since", "1990-01-01T00:00Z"),
                ("until", "2990-01-01T00:00Z"),
            )
        )
        return listed(
            [
                one
                for one in audit
                if wanted.items() <= one.items()
                and first <= datetime.fromisoformat(one["at"]) < last
            ]
        )

    app.add_url_rule("/api/v1/audit", "list_audit", lambda: rows(platform.audit))
    app.add_url_rule(
        "/api/v1/jobs/audit", "list_job_audit", lambda: rows(platform.job_audit)
    )


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an app on a free port of the loopback and yield its address."""
    # Development servers are announced through this logger, which tests do not read.
    importlib.import_module("logging").getLogger("werkzeug").setLevel("ERROR")
    server: BaseWSGIServer = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


_PRESENT: list[Flask] = []


@pytest.fixture(scope="session")
def stand_in_url() -> Iterator[str]:
    """One server for the whole run; each test puts its own platform behind it."""

    def answer(environ: Any, start_response: Any) -> Any:
        return _PRESENT[-1](environ, start_response)

    with serving(answer) as url:
        yield url


@pytest.fixture
def platform(stand_in_url: str) -> Iterator[Platform]:
    """The other services."""
    present = Platform(url=stand_in_url)
    _PRESENT.append(stand_in(present))
    yield present
    _PRESENT.pop()


@pytest.fixture
def make_app(
    platform: Platform, redis_url: str, tmp_path: Any
) -> Iterator[Callable[..., Flask]]:
    """Make an app before the stand-ins, with some settings changed."""
    made = []

    def make(**changes: Any) -> Flask:
        values = settings_for(platform, redis_url, spool_dir=tmp_path / "spool")
        app = create_app(Settings(**{**values, **changes}))
        made.append(app)
        return app

    yield make
    for app in made:
        close(app)


def settings_for(platform: Platform, redis_url: str, **more: Any) -> dict[str, Any]:
    return {
        "environment": "testing",
        "secret_key": "s" * 40,
        "public_url": ISSUER,
        "client_id": "web",
        "client_secret": "secret",
        "redis_store_url": redis_url,
        "redis_cache_url": redis_url,
        "rate_limit": "100000 per minute",
        "sign_in_limit": "100000 per minute",
        "auth_url": platform.url,
        "catalog_url": platform.url,
        "worker_url": platform.url,
        "realtime_url": platform.url,
        "log_level": "ERROR",
        **more,
    }


def close(app: Flask) -> None:
    found = app.extensions["flagon.web"]
    asking = (found.catalog, found.jobs, found.identity, found.prometheus, found.traces)
    for client in asking:
        if client._http is not None:
            client._http.close()
    found.sessions._redis.close()
    found.notices._redis.close()
    for gather in (found.gather, found.gather_aside):
        if gather._pool:
            gather._pool.shutdown()


@pytest.fixture(scope="session")
def shared_app(stand_in_url: str, redis_server: Any) -> Flask:
    """One app for the run: most of its cost is in compiling templates."""
    values = settings_for(Platform(url=stand_in_url), redis_server.url)
    app = create_app(Settings(**values))
    close(app)
    return app


@pytest.fixture
def fit_app(
    shared_app: Flask, platform: Platform, redis_url: str, tmp_path: Any
) -> Iterator[Callable[..., Flask]]:
    """Give the app clients and stores that know nothing of other tests.

    Some settings may be changed: those that count after the start.
    """
    usual = shared_app.extensions["flagon.settings"]

    def fit(**changes: Any) -> Flask:
        values = settings_for(platform, redis_url, spool_dir=tmp_path / "spool")
        settings = Settings(**{**values, **changes})
        found = app_module._backends(settings)
        close(shared_app)
        shared_app.extensions |= {"flagon.web": found, "flagon.settings": settings}
        shared_app.session_interface = RedisSessions(found.sessions, "flagon_session")
        return shared_app

    yield fit
    close(shared_app)
    shared_app.extensions["flagon.settings"] = usual


@pytest.fixture
def app(fit_app: Callable[..., Flask]) -> Flask:
    """The app as it usually is."""
    return fit_app()


class Browser:
    """A browser without scripts: it keeps cookies and asks for pages."""

    def __init__(self, app: Flask, scheme: str = "http") -> None:
        self.client = app.test_client()
        self.base = f"{scheme}://localhost"

    def get(self, path: str, **options: Any) -> Any:
        headers = {"Accept": "text/html", **options.pop("headers", {})}
        return self.client.get(path, base_url=self.base, headers=headers, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> Any:
        headers = {
            "Accept": "text/html",
            "Referer": f"{self.base}/",
            **options.pop("headers", {}),
        }
        return self.client.post(
            path, data=data, base_url=self.base, headers=headers, **options
        )

    def two_pages(self, path: str) -> tuple[str, str]:
        """Return a page of a list and the one that its link to the next leads to."""
        first = self.get(path).text
        link = re.search(r'rel="next" href="([^"]+)', first)
        assert link is not None
        return first, self.get(unescape(link[1])).text

    def csrf(self) -> str:
        found = re.search(
            r'name="csrf-token" content="([^"]+)"', self.get("/status").text
        )
        return found[1] if found else ""

    def submit(self, path: str, **data: Any) -> Any:
        return self.post(path, {"csrf_token": self.csrf(), **data})

    def begin_sign_in(self, next_page: str = "/") -> dict[str, str]:
        """Go to the sign-in and return what auth was asked."""
        answer = self.get(f"/sign-in?{urlencode({'next': next_page})}")
        assert answer.status_code == 303, answer.text
        parts = urlsplit(answer.location)
        assert (parts.scheme, parts.netloc, parts.path) == ("", "", "/oauth/authorize")
        return {name: v[0] for name, v in parse_qs(parts.query).items()}

    def sign_in(self, platform: Platform, next_page: str = "/") -> Any:
        asked = self.begin_sign_in(next_page)
        code = uuid4().hex
        platform.codes[code] = asked
        query = {"code": code, "state": asked["state"], "iss": platform.issuer}
        return self.get(f"/callback?{urlencode(query)}")

    def cookie(self, name: str = "flagon_session") -> str | None:
        found = self.client.get_cookie(name)
        return found.value if found else None


@pytest.fixture
def a_product() -> dict[str, Any]:
    return make_product()


@pytest.fixture
def product_with() -> Callable[..., dict[str, Any]]:
    return make_product


@pytest.fixture
def a_profile(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Keep an import profile at the worker."""

    def make(*arguments: Any, **members: Any) -> dict[str, Any]:
        made = make_profile(*arguments, **members)
        platform.import_profiles[made["id"]] = made
        return made

    return make


@pytest.fixture
def a_category(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make a category at the catalog."""

    def make(name: str, inside: dict[str, Any] | None = None) -> dict[str, Any]:
        made = make_category(name)
        if inside:
            made.update(parent=inside["slug"], path=[*inside["path"], made["slug"]])
        platform.categories.append(made)
        return made

    return make


@pytest.fixture
def a_picture(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make a picture of a product at the catalog."""

    def make(product: dict[str, Any], **members: Any) -> dict[str, Any]:
        made = make_picture(**members)
        platform.pictures.setdefault(product["id"], []).append(made)
        return made

    return make


@pytest.fixture
def a_review(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make a review of a product at the catalog."""

    def make(product: dict[str, Any], **members: Any) -> dict[str, Any]:
        made = make_review(product["id"], **members)
        platform.reviews[made["id"]] = made
        return made

    return make


@pytest.fixture
def a_job() -> Callable[..., dict[str, Any]]:
    return make_job


@pytest.fixture
def a_schedule(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make a schedule at the worker."""

    def make(**members: Any) -> dict[str, Any]:
        return platform.add_schedule(make_schedule(**members))

    return make


@pytest.fixture
def a_webhook(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make a webhook at the worker."""

    def make(**members: Any) -> dict[str, Any]:
        return platform.add_webhook(make_webhook(**members))

    return make


@pytest.fixture
def a_delivery(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make a delivery at the worker, of every webhook."""

    def make(state: str = "delivered", **members: Any) -> dict[str, Any]:
        platform.deliveries.append(make_delivery(state, **members))
        return platform.deliveries[-1]

    return make


@pytest.fixture
def browser(app: Flask) -> Browser:
    return Browser(app)


@pytest.fixture
def make_browser(request: pytest.FixtureRequest) -> Callable[..., Browser]:
    """Make a browser, over http unless told otherwise."""

    def make(scheme: str = "http", app: Flask | None = None) -> Browser:
        return Browser(app or request.getfixturevalue("app"), scheme)

    return make


@pytest.fixture
def falls_after(
    app: Flask, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Let the catalog fall after the next thing that one of its clients finds."""

    def arrange(name: str) -> None:
        api = getattr(app.extensions["flagon.web"], name)
        find = api.find

        def find_and_fall(*args: Any, **options: Any) -> Any:
            found = find(*args, **options)
            platform.down.add("catalog")
            return found

        monkeypatch.setattr(api, "find", find_and_fall)

    return arrange


@pytest.fixture
def signed_in(browser: Browser, platform: Platform) -> Browser:
    """A browser in which a merchandiser is signed in."""
    assert browser.sign_in(platform).status_code == 303
    return browser


@pytest.fixture
def operator(browser: Browser, platform: Platform) -> Browser:
    """A browser in which an operator is signed in."""
    platform.role = "operator"
    assert browser.sign_in(platform).status_code == 303
    return browser


@pytest.fixture
def administrator(browser: Browser, platform: Platform) -> Browser:
    """A browser in which an administrator is signed in."""
    platform.role = "admin"
    platform.id_token_claims["sub"] = OWN_ID
    assert browser.sign_in(platform).status_code == 303
    return browser


@pytest.fixture
def a_user(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make an account at auth."""

    def make(**members: Any) -> dict[str, Any]:
        made = make_user(**members)
        platform.users[made["id"]] = made
        return made

    return make


@pytest.fixture
def a_client(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Register a client at auth."""

    def make(**members: Any) -> dict[str, Any]:
        made = make_client(**members)
        platform.clients[made["id"]] = made
        return made

    return make


def into(rows: list[dict[str, Any]], entity: str) -> Callable[..., dict[str, Any]]:
    """Return what puts a change into an audit."""

    def make(**members: Any) -> dict[str, Any]:
        made = {
            "sequence": len(rows) + 1,
            "at": "2026-01-02T03:04:05Z",
            "actor": "system",
            "client": None,
            "action": "updated",
            "entity": entity,
            "id": str(uuid4()),
            "version": 2,
            "changes": {},
            "request_id": "r-1",
            "trace_id": None,
            **members,
        }
        rows.append(made)
        return made

    return make


@pytest.fixture
def audited(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Put a change into the catalog's audit."""
    return into(platform.audit, "product")


@pytest.fixture
def job_audited(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Put what somebody did into the worker's audit."""
    return into(platform.job_audit, "job")


@pytest.fixture
def a_session(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make a session at auth, of every account."""

    def make(**members: Any) -> dict[str, Any]:
        at = "2026-01-02T03:04:05Z"
        made = {"sid": uuid4().hex, "created_at": at, "seen_at": at, **members}
        platform.sessions.append({"address": "192.0.2.7", "agent": "Firefox/1", **made})
        return platform.sessions[-1]

    return make


@pytest.fixture
def an_event(platform: Platform) -> Callable[..., dict[str, Any]]:
    """Make an event of security at auth, of every account."""

    def make(action: str = "signed_in", **members: Any) -> dict[str, Any]:
        at, number = "2026-01-02T03:04:05Z", len(platform.events) + 1
        made = {"sequence": number, "occurred_at": at, "action": action}
        platform.events.append({**made, **members})
        return platform.events[-1]

    return make


@pytest.fixture
def store(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def serve() -> Callable[[Any], Any]:
    """Serve a WSGI app for as long as a block lasts."""
    return serving
