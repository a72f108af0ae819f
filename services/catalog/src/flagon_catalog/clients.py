"""What the catalog asks over a socket, beside its own database."""

import redis
import structlog

log = structlog.get_logger()


class PersistedDocuments:
    """GraphQL documents that clients have registered, by hash, in the cache Redis.

    It may forget, and may be away: then nothing is found, and the client sends the text.
    Keys are `catalog:graphql:<sha256>` and live as long as they are used, plus
    `keep_seconds`.
    """

    def __init__(self, url: str, *, keep_seconds: int) -> None:
        self._keep_seconds = keep_seconds
        self._redis = redis.Redis.from_url(
            url,
            # A document is not worth waiting for: its client has it.
            retry=None,
            socket_timeout=0.3,
            socket_connect_timeout=0.3,
        )

    def find(self, digest: str) -> str | None:
        """Return the document of this hash, None when it is not known."""
        try:
            text = self._redis.getex(_key(digest), ex=self._keep_seconds)
        except redis.RedisError as error:
            log.warning("documents_unreachable", error=type(error).__name__)
            return None
        return text.decode() if isinstance(text, bytes) else None

    def keep(self, digest: str, text: str) -> None:
        """Remember a document, if Redis answers."""
        try:
            self._redis.set(_key(digest), text, ex=self._keep_seconds)
        except redis.RedisError as error:
            log.warning("documents_unreachable", error=type(error).__name__)


def _key(digest: str) -> str:
    return f"catalog:graphql:{digest}"
