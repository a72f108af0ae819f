"""Everything the catalog reads from its environment."""

from pathlib import Path
from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, model_validator

from flagon_chassis.settings import DatabaseSettings

SOURCE = "/services/catalog"
"""Whom its events name as their source; nobody can set it."""


class Settings(DatabaseSettings, frozen=True, env_prefix="CATALOG_"):
    """Settings of one catalog process: read once at start-up, never changed."""

    body_bytes_max: PositiveInt = 256 * 1024
    """Largest body of a request; a bigger one is a 413."""
    bulk_bytes_max: PositiveInt = 8 * 1024 * 1024
    """Largest body of a bulk upsert."""
    lines_bytes_max: PositiveInt = 256 * 1024 * 1024
    """Largest body of a bulk upsert in lines, which is never in memory as a whole."""
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
    graphql_limit: str = "600 per minute"
    """GraphQL requests that one account or address sends."""
    graphql_cost_max: PositiveInt = 5000
    """Most that one GraphQL query may cost (docs/patterns/graphql.md)."""
    graphql_depth_max: PositiveInt = 15
    """Most levels of braces in a query."""
    graphql_fields_max: PositiveInt = 500
    """Most fields of a document, each counted wherever a fragment brings it."""
    graphql_aliases_max: PositiveInt = 20
    """Most aliases of a document, counted in the same way."""
    graphql_tokens_max: PositiveInt = 1500
    """Most tokens (names, numbers, signs) of a document."""
    graphql_document_bytes_max: PositiveInt = 16 * 1024
    """Longest document."""
    graphql_only_persisted: bool = False
    """Whether only the documents in `queries/` are carried out."""
    graphql_persisted_seconds: PositiveInt = 24 * 3600
    """How long a document that a client has registered is kept after its last use."""
    reviews_moderated: bool = True
    """Whether a review that was written or edited waits until a moderator publishes it."""
    sweep_seconds: PositiveFloat = 10
    """How often, about, each process writes down which reservations have expired."""
    audit_days: int = Field(default=400, ge=30)
    """How long it is kept who changed what; at least what the database insists on."""
    reservation_days: int = Field(default=90, ge=7)
    """How long a reservation is kept after its end; longer than any order takes."""
    images_dir: Path | None = None
    """Folder of the pictures of products; the gateway reads it as well."""
    images_url: str = Field(default="", pattern=r"^(https?://[^/?#@]+/[^/?#]+/?)?$")
    """Instead of a folder: a bucket of a store with the S3 protocol."""
    images_region: str = "us-east-1"
    """Region of the bucket."""
    images_key_id: str = ""
    """Name of the key that may read, write and delete what is in the bucket."""
    images_key: SecretStr = SecretStr("")
    """That key."""
    images_by_gateway: bool = True
    """Whether the gateway sends a picture that it is told of; else the process does."""
    image_bytes_max: PositiveInt = 8 * 1024 * 1024
    """Largest picture that is taken, in bytes; a bigger one is a 413."""
    image_pixels_max: PositiveInt = 24_000_000
    """Most pixels of a picture that is taken; more are a 422, before any is decoded."""
    image_memory_bytes: PositiveInt = 512 * 1024 * 1024
    """Most memory of the process that draws one picture anew."""
    image_seconds: PositiveInt = 15
    """Longest time that it may take, and that another picture waits for it."""
    image_limit: str = "60 per minute"
    """Pictures that one account sends: each is drawn anew, which is work."""

    @model_validator(mode="after")
    def _one_store_of_pictures(self) -> Self:
        if bool(self.images_dir) == bool(self.images_url):
            raise ValueError(
                "Set CATALOG_IMAGES_DIR, or CATALOG_IMAGES_URL for a bucket."
            )
        if self.images_url and not (self.images_key_id and self.images_key):
            raise ValueError(
                "A bucket needs CATALOG_IMAGES_KEY_ID and CATALOG_IMAGES_KEY."
            )
        return self
