"""Gets a token as a device does that has no browser (RFC 8628)."""

import json
import time

import httpx2

from .problem import Problem
from .signin import CLIENT

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def token(base_url: str, scope: str) -> dict[str, object]:
    """Say where to let this program in, wait for it and return the token response.

    :param base_url: the gateway.
    :raises Problem: nobody let it in.
    """
    with httpx2.Client(base_url=base_url, timeout=10, trust_env=False) as client:
        asked = _post(client, "device_authorization", {"scope": scope})
        if "device_code" not in asked:
            raise Problem(f"auth refused: {json.dumps(asked)}", "make logs S=auth")
        print(f"Sign in at {asked['verification_uri_complete']}")
        print(f"and compare the code: {asked['user_code']}", flush=True)
        pause = float(str(asked["interval"]))
        while True:
            time.sleep(pause)
            told = _post(
                client,
                "token",
                {"grant_type": _GRANT, "device_code": str(asked["device_code"])},
            )
            if "access_token" in told:
                return told
            if told["error"] == "slow_down":
                pause += 5
            elif told["error"] != "authorization_pending":
                raise Problem(f"Not let in: {told['error']}.", "make device")


def _post(client: httpx2.Client, path: str, form: dict[str, str]) -> dict[str, object]:
    try:
        answer = client.post(f"/oauth/{path}", data={"client_id": CLIENT, **form})
    except httpx2.TransportError as error:
        message = f"{client.base_url} does not answer ({type(error).__name__})."
        raise Problem(message, "make up") from error
    found: dict[str, object] = answer.json()
    return found
