"""`/api/v1/keys`: the keys that sign tokens; never their private halves."""

from datetime import UTC, datetime

from apiflask import APIBlueprint
from flask import Response, request
from flask.typing import ResponseReturnValue

from flagon_auth import keeper
from flagon_auth.domain import keys
from flagon_auth.schemas import KeyList, KeyRotation
from flagon_chassis import auth
from flagon_chassis.db import transaction
from flagon_chassis.web import reply

bp = APIBlueprint("keys", __name__, url_prefix="/api/v1", tag="Signing keys")


@bp.get("/keys")
@auth.requires("users:read")
@bp.output(KeyList)
def list_keys() -> ResponseReturnValue:
    """Return every signing key there ever was, oldest first."""
    with transaction() as db:
        return reply(KeyList, {"items": keys.list_keys(db)})


@bp.post("/keys/rotate")
@auth.requires("users:write")
@bp.input(KeyRotation, location="json", arg_name="asked")
@bp.output(KeyList)
def rotate_keys(asked: KeyRotation) -> ResponseReturnValue:
    """Let the next keys sign, retire the present ones and publish new ones.

    Keys rotate by themselves, too. Verifiers must have had the time to learn the next
    ones; `at_once` does not wait for that.
    """
    found = keeper.rotate_keys(
        actor=auth.caller().sub,
        address=request.remote_addr,
        at_once=asked.at_once,
        now=datetime.now(UTC),
    )
    return reply(KeyList, {"items": found})


@bp.delete("/keys/<kid>")
@auth.requires("users:write")
@bp.output({}, status_code=204)
def drop_key(kid: str) -> ResponseReturnValue:
    """Refuse all that a stolen key signed: everywhere, within seconds."""
    keeper.drop_key(
        kid,
        actor=auth.caller().sub,
        address=request.remote_addr,
        now=datetime.now(UTC),
    )
    return Response(status=204)
