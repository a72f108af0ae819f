"""auth's API of OAuth clients as the pages of administrators use it."""

from flagon_web.domain.registered_clients import (
    ClientSecret,
    RegisteredClient,
    RegisteredClientPage,
)

from .resources import Resources


class RegisteredClients(Resources[RegisteredClient, RegisteredClientPage]):
    """Programs that may ask for tokens; pages of them are by id.

    One that was made has its secret, if it is to have one, which is shown once.
    """

    path = "/api/v1/clients"
    one = RegisteredClient
    page = RegisteredClientPage

    def rotate(
        self, client_id: str, *, overlap_seconds: int, key: str, token: str
    ) -> ClientSecret:
        """Give a client a new secret and return it.

        :param overlap_seconds: how long the present one goes on working.
        :param key: the same for every attempt to send the same form.
        """
        answer = self._http.post(
            self._of(client_id, "secret"),
            json={"overlap_seconds": overlap_seconds},
            idempotency_key=key,
            token=token,
        )
        return ClientSecret.model_validate(answer.json())
