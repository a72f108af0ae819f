"""The catalog's tables."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CHAR,
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Computed,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    case,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

from flagon_chassis.tables import NAMING

STATUSES = ("draft", "active", "archived")
"""A draft is not for sale yet, an archived product no longer."""
REVIEW_STATES = ("pending", "published", "rejected")
"""A pending review waits for a moderator; only published ones are shown and counted."""
STATES = ("held", "committed", "released", "expired")
"""What a reservation can be: held at first, and then one of the others for good."""
OUTCOMES = STATES[1:]
"""How it can end."""

LEVELS_MAX = 6
"""Most categories on the way from a root to a leaf, both counted."""

# Accents are folded away, so that `zafon` finds Zafón. NFD and not NFKD: the latter would
# turn characters of the attributes into quotation marks and so break their JSON.
_FOLDED = "regexp_replace(normalize({0}, NFD), '[\u0300-\u036f]', '', 'g')"

# The name is there twice, with and without stemming: a product called `It` has a name of
# stop words alone, which the English dictionary leaves out.
SEARCH = (
    "setweight(to_tsvector('english', {name}), 'A')"
    " || setweight(to_tsvector('simple', {name} || ' ' || sku), 'A')"
    " || setweight(jsonb_to_tsvector('english', ({attributes})::jsonb,"
    " '[\"string\"]'), 'B')"
    " || setweight(to_tsvector('english', {description}), 'C')"
).format(
    name=_FOLDED.format("name"),
    attributes=_FOLDED.format("attributes::text"),
    description=_FOLDED.format("description"),
)
"""What full-text search looks at: name and SKU first, then attributes, then the rest."""

RATING = (
    "jsonb_build_object('count', {0}.rating_count, 'average',"
    " round(cast({0}.rating_sum as numeric) / nullif({0}.rating_count, 0), 2))"
)
"""A product's rating as the API shows it; `{0}` is where its columns are."""


class Base(DeclarativeBase):
    """The catalog's own metadata; no other service's tables are in it."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's own form)
        str: Text(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(),
        list[str]: ARRAY(Text),
    }


class Category(Base):
    """A shelf of the shop."""

    __tablename__ = "category"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    slug: Mapped[str] = mapped_column(unique=True)
    """Its name in addresses; never changes, because products are shown with it."""
    name: Mapped[str]
    description: Mapped[str]
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("category.id"))
    path: Mapped[list[str]]
    """Slugs from the root to this one (docs/adr/0027-category-paths.md)."""
    attribute_schema: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True)
    )
    """What it asks of the attributes of products in it (JSON Schema 2020-12)."""
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.clock_timestamp()
    )

    # The unit of work counts versions: 1 at first, one more at each changed row.
    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}  # noqa: RUF012 (SQLAlchemy's own form)
    __table_args__ = (
        # No way up is endless and none leads back, whatever the code does.
        CheckConstraint(f"cardinality(path) <= {LEVELS_MAX}", name="levels"),
        CheckConstraint("path[cardinality(path)] = slug", name="path_ends_here"),
        CheckConstraint(
            "(parent_id IS NULL) = (cardinality(path) = 1)", name="path_begins_at_root"
        ),
        CheckConstraint(
            "jsonb_typeof(attribute_schema) = 'object'", name="attribute_schema"
        ),
        Index("ix_category_name_id", text("lower(name)"), "id"),
        Index("ix_category_parent_id_name_id", "parent_id", text("lower(name)"), "id"),
        Index("ix_category_path", "path", postgresql_using="gin"),
    )

    @property
    def parent(self) -> str | None:
        """Return the slug of the category that this one is in."""
        return self.path[-2] if len(self.path) > 1 else None

    def view(self) -> dict[str, Any]:
        """Return the category as the API shows it."""
        return {column.key: getattr(self, column.key) for column in CATEGORY_VIEW}


CATEGORY_VIEW = (
    Category.id,
    Category.slug,
    Category.name,
    Category.description,
    # Nothing is before the first, so a root has none.
    Category.path[func.cardinality(Category.path) - 1].label("parent"),
    Category.path,
    Category.attribute_schema,
    Category.version,
    Category.created_at,
    Category.updated_at,
)
"""The columns of a category in the order of the API."""


class Tag(Base):
    """A word that products are marked with, any number of them."""

    __tablename__ = "tag"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    slug: Mapped[str] = mapped_column(unique=True)
    """Its name in addresses; never changes, because products are shown with it."""
    name: Mapped[str]
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.clock_timestamp()
    )

    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}  # noqa: RUF012 (SQLAlchemy's own form)
    __table_args__ = (Index("ix_tag_name_id", text("lower(name)"), "id"),)

    def view(self) -> dict[str, Any]:
        """Return the tag as the API shows it."""
        return {column.key: getattr(self, column.key) for column in TAG_VIEW}


TAG_VIEW = (Tag.id, Tag.slug, Tag.name, Tag.version, Tag.created_at, Tag.updated_at)
"""The columns of a tag in the order of the API."""

product_tag = Table(
    "product_tag",
    Base.metadata,
    Column(
        "product_id",
        ForeignKey("product.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("tag_id", ForeignKey(Tag.id), primary_key=True),
    # The primary key finds the tags of a product, this one the products of a tag.
    Index("ix_product_tag_tag_id_product_id", "tag_id", "product_id"),
)


class Product(Base):
    """Something that can be bought."""

    __tablename__ = "product"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    sku: Mapped[str] = mapped_column(unique=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    description: Mapped[str]
    """Markdown, as it was written."""
    description_html: Mapped[str | None]
    """The same as HTML that is safe to show (`domain.markup`); None: not yet made."""
    price_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(CHAR(3))
    status: Mapped[str]
    stock: Mapped[int]
    category_id: Mapped[UUID | None] = mapped_column(ForeignKey(Category.id))
    attributes: Mapped[dict[str, Any]]
    rating_count: Mapped[int] = mapped_column(server_default=text("0"))
    """How many published reviews there are; changes without a new version."""
    rating_sum: Mapped[int] = mapped_column(server_default=text("0"))
    """What their ratings add up to."""
    version: Mapped[int] = mapped_column(server_default=text("1"))
    versions_sold: Mapped[int] = mapped_column(server_default=text("0"))
    """How many of the latest versions only took stock out: who has read the version before
    them has missed a sale and no edit."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    search: Mapped[str] = mapped_column(TSVECTOR, Computed(SEARCH, persisted=True))

    __table_args__ = (
        CheckConstraint("price_minor >= 0", name="price"),
        CheckConstraint("stock >= 0", name="stock"),
        CheckConstraint(f"status in ({', '.join(map(repr, STATUSES))})", name="status"),
        CheckConstraint(
            "rating_sum between rating_count and 5 * rating_count", name="rating"
        ),
        # Two for each order of the list, because a list of categories merges one range
        # of each; nearly every list asks for one status.
        Index("ix_product_status_created_at_id", "status", "created_at", "id"),
        Index("ix_product_status_name_id", "status", text("lower(name)"), "id"),
        Index("ix_product_status_price_minor_id", "status", "price_minor", "id"),
        Index(
            "ix_product_category_id_status_created_at_id",
            "category_id",
            "status",
            "created_at",
            "id",
        ),
        Index(
            "ix_product_category_id_status_name_id",
            "category_id",
            "status",
            text("lower(name)"),
            "id",
        ),
        Index(
            "ix_product_category_id_status_price_minor_id",
            "category_id",
            "status",
            "price_minor",
            "id",
        ),
        # Of a currency that few products have; small, because it holds each value once.
        Index("ix_product_currency", "currency"),
        Index("ix_product_search", "search", postgresql_using="gin"),
        # Half the size of the usual class; it knows nothing but `@>`.
        Index(
            "ix_product_attributes",
            "attributes",
            postgresql_using="gin",
            postgresql_ops={"attributes": "jsonb_path_ops"},
        ),
    )


word = Table(
    "word",
    Base.metadata,
    # Not unique: who writes products must not wait for others that know the same words.
    Column("text", Text, nullable=False),
    Index("ix_word_text", "text"),
    Index(
        "ix_word_trigrams",
        "text",
        postgresql_using="gin",
        postgresql_ops={"text": "gin_trgm_ops"},
    ),
)
"""The words of products' names and attributes, for searches with a slip of the pen. None
is taken out: what no product has any more is never searched for (`domain.words`)."""


class Price(Base):
    """What a product cost, from some moment on."""

    __tablename__ = "price"

    product_id: Mapped[UUID] = mapped_column(
        ForeignKey(Product.id, ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """The version of the product that brought it; later ones are greater."""
    price_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(CHAR(3))
    from_: Mapped[datetime] = mapped_column("from")


class Reservation(Base):
    """A quantity of a product that is put aside for somebody."""

    __tablename__ = "reservation"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    # No foreign key: what was committed is told of after its product is gone as well, and
    # the lock on the product keeps it there while something is held.
    product_id: Mapped[UUID]
    quantity: Mapped[int]
    outcome: Mapped[str | None]
    """How it ended; None as long as nobody has written down an end."""
    ended_at: Mapped[datetime | None]
    holder: Mapped[str]
    """The subject of the token that reserved: an account's id or a service's."""
    reference: Mapped[str | None]
    expires_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint(
            f"outcome in ({', '.join(map(repr, OUTCOMES))})", name="outcome"
        ),
        CheckConstraint("(outcome is null) = (ended_at is null)", name="ended"),
        # Two for the list, two for what is held alone: few rows, whatever was sold before.
        Index("ix_reservation_holder_id", "holder", "id"),
        Index("ix_reservation_product_id_id", "product_id", "id"),
        Index(
            "ix_reservation_open",
            "product_id",
            "expires_at",
            postgresql_include=["quantity"],
            postgresql_where=text("ended_at is null"),
        ),
        Index(
            "ix_reservation_open_due",
            "expires_at",
            postgresql_where=text("ended_at is null"),
        ),
    )


# Not `now()`, which is when the transaction began: who has waited for a lock must see the
# time at which it was given. And not `clock_timestamp()`, which no index can be asked for.
MOMENT: ColumnElement[datetime] = func.statement_timestamp()
"""The present, for deciding what has expired: when this statement began."""

HELD = (
    select(func.coalesce(func.sum(Reservation.quantity), 0))
    .where(
        Reservation.product_id == Product.id,
        Reservation.ended_at.is_(None),
        Reservation.expires_at > MOMENT,
    )
    .correlate(Product)
    .scalar_subquery()
)
"""How much of a product is put aside at this moment."""

RESERVATION_STATE = case(
    (
        Reservation.ended_at.is_(None) & (Reservation.expires_at <= MOMENT),
        "expired",
    ),
    else_=func.coalesce(Reservation.outcome, "held"),
)
"""The state of a reservation at this moment, whether or not its end is written down."""

RESERVATION_VIEW = (
    Reservation.id,
    Reservation.product_id,
    Reservation.quantity,
    RESERVATION_STATE.label("state"),
    Reservation.holder,
    Reservation.reference,
    Reservation.expires_at,
    Reservation.version,
    Reservation.created_at,
    Reservation.updated_at,
)
"""The columns of a reservation in the order of the API."""

PRODUCT_RATING = literal_column(RATING.format("product"), JSONB()).label("rating")

# One index range for each product that is shown, and none for those that a list skips.
# In the order of bytes, as Python sorts: other collations skip hyphens.
_TAGS = func.array(
    select(Tag.slug)
    .join(product_tag, product_tag.c.tag_id == Tag.id)
    .where(product_tag.c.product_id == Product.id)
    .correlate(Product)
    .order_by(Tag.slug.collate("C"))
    .scalar_subquery(),
    type_=ARRAY(Text),
)

PRODUCT_VIEW = (
    Product.id,
    Product.sku,
    Product.slug,
    Product.name,
    Product.description,
    Product.price_minor,
    Product.currency,
    Product.status,
    Product.stock,
    (Product.stock - HELD).label("available"),
    Category.slug.label("category"),
    _TAGS.label("tags"),
    Product.attributes,
    PRODUCT_RATING,
    Product.version,
    Product.created_at,
    Product.updated_at,
)
"""The columns of a product in the order of the API; select them joined with category."""


class Review(Base):
    """What one person says about one product."""

    __tablename__ = "review"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    product_id: Mapped[UUID] = mapped_column(ForeignKey(Product.id, ondelete="CASCADE"))
    subject: Mapped[UUID]
    """The account that wrote it; auth's, so no foreign key."""
    author: Mapped[str]
    """The name that its writer chose to be shown with."""
    rating: Mapped[int] = mapped_column(SmallInteger)
    """Stars, 1 to 5."""
    title: Mapped[str]
    body: Mapped[str]
    """Markdown, as it was written."""
    body_html: Mapped[str]
    """The same as HTML that is safe to show (`domain.markup`)."""
    language: Mapped[str | None]
    state: Mapped[str]
    note: Mapped[str | None]
    """Why it was rejected; for its author and for moderators."""
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.clock_timestamp()
    )

    # As a category's.
    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}  # noqa: RUF012 (SQLAlchemy's own form)
    __table_args__ = (
        UniqueConstraint("product_id", "subject"),
        CheckConstraint("rating between 1 and 5", name="rating"),
        CheckConstraint(
            f"state in ({', '.join(map(repr, REVIEW_STATES))})", name="state"
        ),
        # The lists of a product, of a person and of the moderators.
        Index(
            "ix_review_product_id_created_at_id",
            "product_id",
            "created_at",
            "id",
            postgresql_where=text("state = 'published'"),
        ),
        Index(
            "ix_review_product_id_rating_id",
            "product_id",
            "rating",
            "id",
            postgresql_where=text("state = 'published'"),
        ),
        Index("ix_review_subject_created_at_id", "subject", "created_at", "id"),
        Index("ix_review_state_created_at_id", "state", "created_at", "id"),
        Index("ix_review_created_at_id", "created_at", "id"),
    )

    def view(self) -> dict[str, Any]:
        """Return the review as its author sees it in the API."""
        return {column.key: getattr(self, column.key) for column in REVIEW_VIEW}


REVIEW_VIEW = (
    Review.id,
    Review.product_id,
    Review.subject,
    Review.author,
    Review.rating,
    Review.title,
    Review.body,
    Review.body_html,
    Review.language,
    Review.state,
    Review.note,
    Review.version,
    Review.created_at,
    Review.updated_at,
)
"""The columns of a review in the order of the API."""


class Picture(Base):
    """Stored pixels; whatever shows the same shares them."""

    __tablename__ = "picture"

    sha256: Mapped[str] = mapped_column(CHAR(64), primary_key=True)
    """Of the bytes of the whole picture, in hexadecimal digits: its name in storage."""
    bytes: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    widths: Mapped[list[int]] = mapped_column(
        ARRAY(Integer), server_default=text("'{}'")
    )
    """Of the thumbnails that there are, in pixels, ascending."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        CheckConstraint("bytes > 0 and width > 0 and height > 0", name="sizes"),
    )


class Image(Base):
    """A picture that is shown with a product."""

    __tablename__ = "image"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    product_id: Mapped[UUID] = mapped_column(ForeignKey(Product.id, ondelete="CASCADE"))
    sha256: Mapped[str] = mapped_column(ForeignKey(Picture.sha256))
    alt: Mapped[str]
    """What it shows, for who does not see it; may be empty."""
    position: Mapped[int] = mapped_column(SmallInteger)
    """Its place, from 0: the first one stands for the product in lists."""
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.clock_timestamp()
    )

    # As a category's.
    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}  # noqa: RUF012 (SQLAlchemy's own form)
    __table_args__ = (
        # At the end of the transaction: while images change places two have the same.
        UniqueConstraint(
            "product_id", "position", deferrable=True, initially="DEFERRED"
        ),
        UniqueConstraint("product_id", "sha256"),
        CheckConstraint("position >= 0", name="position"),
        Index("ix_image_sha256", "sha256"),
    )


IMAGE_VIEW = (
    Image.id,
    Image.product_id,
    Image.alt,
    Image.position,
    Image.sha256,
    Picture.width,
    Picture.height,
    Picture.widths,
    Image.version,
    Image.created_at,
    Image.updated_at,
)
"""What the API makes an image of; select it joined with picture."""
