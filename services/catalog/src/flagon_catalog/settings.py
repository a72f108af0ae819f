"""Everything the catalog reads from its environment."""

from pydantic import Field, PositiveFloat, PositiveInt

from flagon_chassis.settings import DatabaseSettings


class Settings(DatabaseSettings, frozen=True, env_prefix="CATALOG_"):
    """Settings of one catalog process: read once at start-up, never changed."""

    body_bytes_max: PositiveInt = 256 * 1024
    """Largest body of a request; a bigger one is a 413."""
    bulk_bytes_max: PositiveInt = 8 * 1024 * 1024
    """Largest body of a bulk upsert."""
    fresh_seconds: int = Field(default=1, ge=0)
    """How long a shared cache may show a public answer without asking again."""
    revalidate_seconds: int = Field(default=5, ge=0)
    """How long after that it may show what changes rarely while it asks again."""
    stale_seconds: int = Field(default=600, ge=0)
    """How long a shared cache may show it while the catalog does not answer."""
    answer_seconds: int = Field(default=30, ge=0)
    """How long the answer to a public list is kept at most; 0: none is."""
    review_limit: str = "30 per minute"
    """Reviews that one account writes or edits: each is rendered, which is work."""
    facet_limit: str = "120 per minute"
    """Lists with facets that one account or address asks for: each counts all it finds."""
    export_limit: str = "20 per minute"
    """Exports that one account begins."""
    reviews_moderated: bool = True
    """Whether a review that was written or edited waits until a moderator publishes it."""
    sweep_seconds: PositiveFloat = 10
    """How often, about, each process writes down which reservations have expired."""
