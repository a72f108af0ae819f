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
from hashlib import sha256
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
}
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
        default_factory=lambda: [{"id": "c1", "slug": "books", "name": "Books"}]
    )
    reviews: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    """Of every job, newest first."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Of every job, oldest first."""
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    webhooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    """Of every webhook, newest first."""
    keys: list[str] = field(default_factory=list)
    """Idempotency keys of what was made or run."""
    silent: set[str] = field(default_factory=set)
    """Ends of paths that answer 503."""
    uploads: list[dict[str, Any]] = field(default_factory=list)
    corrected: dict[str, str] = field(default_factory=dict)
    """By words that find nothing: what is searched for instead."""
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
        "/api/v1/webhooks": "worker",
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
        if request.args.get("facets") == "category,tag":
            tags = Counter(tag for p in found for tag in p.get("tags", []))
            counts = {"category": Counter(p["category"] for p in found), "tag": tags}
            told["facets"] = {
                name: [{"value": v, "count": n} for v, n in counted.items()]
                for name, counted in counts.items()
            }
        start, limit = int(request.args.get("cursor", 0)), int(request.args["limit"])
        after = start + limit
        cursor = str(after) if after < len(found) else None
        return jsonify(items=found[start:after], next_cursor=cursor, **told)

    @app.get("/api/v1/categories")
    def categories() -> Response:
        return jsonify(items=platform.categories, next_cursor=None)

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
        if request.headers["If-Match"] != f'"{found["version"]}"':
            return problem(412)
        if request.get_json()["price_minor"] > 100_000_000:
            return problem(422, "The price is too high.")
        found.update(request.get_json())
        found["version"] += 1
        return jsonify(found)

    stand_in_reviews(app, platform)
    stand_in_jobs(app, platform)
    stand_in_dead(app, platform)
    stand_in_schedules(app, platform)
    stand_in_webhooks(app, platform)
    return app


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
        job = platform.add_job(make_job("queued", kind=request.form["kind"]))
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
) -> Callable[[UUID], dict[str, Any]]:
    """Give the app what the worker's APIs of schedules and webhooks have in common.

    :param judge: returns the refusal of what is wrong with some fields, if anything.
    :param add: adds one and returns it as the answer shows it.
    :returns: what finds one.
    """
    bp = Blueprint(kind, __name__, url_prefix=f"/api/v1/{kind}")

    def shelf() -> dict[str, Any]:
        found: dict[str, Any] = getattr(platform, kind)
        return found

    def find(id_: UUID) -> dict[str, Any]:
        found: dict[str, Any] = shelf()[str(id_)]
        return found

    @bp.get("")
    def find_page() -> Response:
        return listed(list(shelf().values()))

    @bp.post("")
    def create() -> Any:
        refusal = judge(request.get_json())
        if refusal is not None:
            return refusal
        platform.keys.append(request.headers["Idempotency-Key"])
        return tagged(add(request.get_json()), 201)

    @bp.get("/<uuid:id_>")
    def find_one(id_: UUID) -> Any:
        return tagged(find(id_)) if str(id_) in shelf() else problem(404)

    @bp.patch("/<uuid:id_>")
    def change(id_: UUID) -> Any:
        found = find(id_)
        refusal = stale(found) or judge(request.get_json())
        if refusal is not None:
            return refusal
        found.update(request.get_json())
        found["version"] += 1
        return tagged(found)

    @bp.delete("/<uuid:id_>")
    def delete(id_: UUID) -> Any:
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
    for client in (found.catalog, found.jobs, found.identity):
        client._http.close()
    found.sessions._redis.close()
    if found.gather._pool:
        found.gather._pool.shutdown()


@pytest.fixture(scope="session")
def shared_app(stand_in_url: str, redis_server: Any) -> Flask:
    """One app for the run: most of its cost is in compiling templates."""
    values = settings_for(Platform(url=stand_in_url), redis_server.url)
    app = create_app(Settings(**values))
    close(app)
    return app


@pytest.fixture
def app(
    shared_app: Flask, platform: Platform, redis_url: str, tmp_path: Any
) -> Iterator[Flask]:
    """The app, with clients and stores that know nothing of other tests."""
    values = settings_for(platform, redis_url, spool_dir=tmp_path / "spool")
    found = app_module._backends(Settings(**values))
    shared_app.extensions["flagon.web"] = found
    shared_app.session_interface = RedisSessions(found.sessions, "flagon_session")
    yield shared_app
    close(shared_app)


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
def store(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def serve() -> Callable[[Any], Any]:
    """Serve a WSGI app for as long as a block lasts."""
    return serving
