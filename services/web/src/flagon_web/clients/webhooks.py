"""The webhooks API as the pages use it."""

from typing import Any

from flagon_web.domain.webhooks import DeliveryPage, Webhook, WebhookPage

from .resources import Resources


class Webhooks(Resources[Webhook, WebhookPage]):
    """Endpoints of others that get events; pages of them are newest first.

    One that was made has its secret, which is shown once.
    """

    path = "/api/v1/webhooks"
    one = Webhook
    page = WebhookPage

    def rotate(self, webhook_id: str, *, key: str, token: str) -> Webhook:
        """Give a webhook a new secret and return it with that.

        :param key: the same for every attempt to send the same form.
        """
        step = self._of(webhook_id, "rotate")
        return self._read(self._http.post(step, idempotency_key=key, token=token))

    def test(self, webhook_id: str, *, token: str) -> None:
        """Send a test."""
        self._http.post(self._of(webhook_id, "test"), token=token)

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
            self._of(webhook_id, "deliveries"),
            params={**params, "limit": limit},
            token=token,
        )
        return DeliveryPage.model_validate(answer.json())

    def resend_delivery(self, webhook_id: str, delivery_id: str, *, token: str) -> None:
        """Send a delivery anew."""
        step = self._of(webhook_id, "deliveries", delivery_id, "resend")
        self._http.post(step, token=token)
