"""auth's API of accounts as the pages of administrators use it."""

from flagon_web.domain.users import (
    Account,
    AccountPage,
    SecurityEventPage,
    SignedIn,
    SignedInPage,
)

from .resources import Resources


class Users(Resources[Account, AccountPage]):
    """Everybody's accounts; pages of them are oldest first.

    They are narrowed by `email` (the whole address), `role` and `disabled` (`true` or
    `false`).
    """

    path = "/api/v1/users"
    one = Account
    page = AccountPage

    def send_password_reset(self, account_id: str, *, token: str) -> None:
        """Have a link mailed with which the owner chooses a new password."""
        self._http.post(self._of(account_id, "password-reset"), token=token)

    def list_sessions(self, account_id: str, *, token: str) -> list[SignedIn]:
        """Return the browsers in which the account is signed in."""
        answer = self._http.get(self._of(account_id, "sessions"), token=token)
        return SignedInPage.model_validate(answer.json()).items

    def end_sessions(self, account_id: str, sid: str = "", *, token: str) -> None:
        """Sign an account out: in one browser, or in all when none is named."""
        steps = ["sessions", sid] if sid else ["sessions"]
        self._http.delete(self._of(account_id, *steps), token=token)

    def list_events(
        self, account_id: str, *, token: str, limit: int, cursor: str = ""
    ) -> SecurityEventPage:
        """Return a page of what happened to the account, newest first.

        :param account_id: empty for all accounts, and what belongs to none.
        """
        steps = [account_id, "events"] if account_id else ["events"]
        answer = self._http.get(
            self._of(*steps),
            params={"limit": limit, **({"cursor": cursor} if cursor else {})},
            token=token,
        )
        return SecurityEventPage.model_validate(answer.json())
