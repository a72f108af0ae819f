"""The webhooks API as the pages use it."""

from typing import Any
from urllib.parse import quote

from flagon_chassis.http import Client
from flagon_web.domain.webhooks import DeliveryPage, Webhook, WebhookPage

_API = "/api/v1/webhooks"


class Webhooks:
    """Endpoints of others that get events; for operators.

    Every method raises `Unreachable` when the jobs API does not answer and `Refused`
    when it says no.
    """

    def __init__(self, http: Client) -> None:
        self._http = http

    def list_webhooks(self, *, token: str, limit: int, cursor: str = "") -> WebhookPage:
        """Return a page of webhooks, newest first."""
        answer = self._http.get(
            _API,
            params={"limit": limit, **({"cursor": cursor} if cursor else {})},
            token=token,
        )
        return WebhookPage.model_validate(answer.json())

    def find_webhook(self, webhook_id: str, *, token: str) -> Webhook:
        """Return one webhook, with its entity tag."""
        answer = self._http.get(_path(webhook_id), token=token)
        return Webhook.model_validate(
            {**answer.json(), "etag": answer.headers.get("ETag", "")}
        )

    def create_webhook(
        self, fields: dict[str, Any], *, key: str, token: str
    ) -> Webhook:
        """Make a webhook and return it with its secret.

        :param key: the same for every attempt to send the same form, which then makes
            one webhook.
        """
        answer = self._http.post(_API, json=fields, idempotency_key=key, token=token)
        return Webhook.model_validate(answer.json())

    def change_webhook(
        self, webhook_id: str, changes: dict[str, Any], *, etag: str, token: str
    ) -> None:
        """Change some fields, if the webhook is still the one that the person saw.

        :param etag: entity tag of the version that the person saw.
        """
        self._http.patch(
            _path(webhook_id), json=changes, headers={"If-Match": etag}, token=token
        )

    def delete_webhook(self, webhook_id: str, *, etag: str, token: str) -> None:
        """Forget a webhook, if it is still the one that the person saw."""
        self._http.delete(_path(webhook_id), headers={"If-Match": etag}, token=token)

    def rotate_webhook(self, webhook_id: str, *, key: str, token: str) -> Webhook:
        """Give a webhook a new secret and return it with that.

        :param key: the same for every attempt to send the same form.
        """
        answer = self._http.post(
            f"{_path(webhook_id)}/rotate", idempotency_key=key, token=token
        )
        return Webhook.model_validate(answer.json())

    def test_webhook(self, webhook_id: str, *, token: str) -> None:
        """Send a test."""
        self._http.post(f"{_path(webhook_id)}/test", token=token)

    def list_deliveries(
        self,
        webhook_id: str,
        *,
        token: str,
        limit: int,
        state: str = "",
        cursor: str = "",
    ) -> DeliveryPage:
        """Return a page of what was sent, newest first.

        :param state: only those in this state; empty for all.
        """
        wanted = {"state": state, "cursor": cursor}
        params: dict[str, Any] = {k: v for k, v in wanted.items() if v}
        answer = self._http.get(
            f"{_path(webhook_id)}/deliveries",
            params={**params, "limit": limit},
            token=token,
        )
        return DeliveryPage.model_validate(answer.json())

    def resend_delivery(self, webhook_id: str, delivery_id: str, *, token: str) -> None:
        """Send a delivery anew."""
        path = f"{_path(webhook_id)}/deliveries/{quote(delivery_id, safe='')}/resend"
        self._http.post(path, token=token)


def _path(webhook_id: str) -> str:
    return f"{_API}/{quote(webhook_id, safe='')}"
