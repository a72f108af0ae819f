"""The product list as FastAPI's and SQLModel's documentation would have it.

Related rows are loaded with `selectinload`, a statement for all products of a page:
without it there would be two for each product.
"""

import os
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from sqlalchemy import Column, Text, func, tuple_
from sqlalchemy import select as sa_select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import column_property, selectinload
from sqlmodel import Field, Relationship, Session, SQLModel, create_engine, select

POOL = int(os.environ["PEER_POOL"])
engine = create_engine(
    os.environ["CATALOG_DATABASE_URL"], pool_size=POOL, max_overflow=0
)
app = FastAPI()


class Category(SQLModel, table=True):
    """A shelf of the shop."""

    id: UUID = Field(primary_key=True)
    slug: str


class ProductTag(SQLModel, table=True):
    """Which product has which tag."""

    __tablename__ = "product_tag"

    product_id: UUID = Field(foreign_key="product.id", primary_key=True)
    tag_id: UUID = Field(foreign_key="tag.id", primary_key=True)


class Tag(SQLModel, table=True):
    """A word that products are marked with."""

    id: UUID = Field(primary_key=True)
    slug: str


class Reservation(SQLModel, table=True):
    """A quantity of a product that is put aside."""

    id: UUID = Field(primary_key=True)
    product_id: UUID
    quantity: int
    ended_at: datetime | None
    expires_at: datetime


class ProductBase(SQLModel):
    """What is both stored and shown as it is."""

    sku: str
    slug: str
    name: str
    description: str = Field(sa_type=Text)
    price_minor: int
    currency: str
    status: str
    stock: int
    version: int
    created_at: datetime
    updated_at: datetime


class Product(ProductBase, table=True):
    """Something that can be bought."""

    id: UUID = Field(primary_key=True)
    category_id: UUID | None = Field(foreign_key="category.id")
    attributes: dict[str, Any] = Field(sa_column=Column(JSONB))
    rating_count: int
    rating_sum: int
    shelf: Category | None = Relationship()
    labels: list[Tag] = Relationship(link_model=ProductTag)

    @property
    def category(self) -> str | None:
        """The slug of the category."""
        return self.shelf.slug if self.shelf else None

    @property
    def tags(self) -> list[str]:
        """The slugs of the tags."""
        return sorted(tag.slug for tag in self.labels)

    @property
    def rating(self) -> "Rating":
        """The rating, in short."""
        count = self.rating_count
        average = round(self.rating_sum / count, 2) if count else None
        return Rating(count=count, average=average)


Product.available = column_property(
    Product.__table__.c.stock
    - sa_select(func.coalesce(func.sum(Reservation.quantity), 0))
    .where(
        Reservation.product_id == Product.__table__.c.id,
        Reservation.ended_at.is_(None),
        Reservation.expires_at > func.now(),
    )
    .correlate(Product.__table__)
    .scalar_subquery()
)


class Rating(SQLModel):
    """What published reviews say, in short."""

    count: int
    average: float | None


class ProductPublic(ProductBase):
    """A product as the API shows it."""

    id: UUID
    available: int
    category: str | None
    tags: list[str]
    attributes: dict[str, Any]
    rating: Rating


class ProductsPublic(SQLModel):
    """A page of products."""

    items: list[ProductPublic]
    next_cursor: str | None


def get_session():
    """Yield a session for one request."""
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]


@app.get("/products", response_model=ProductsPublic)
def read_products(
    session: SessionDep,
    status: Literal["active", "draft", "archived"] = "active",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> Any:
    """List products, the newest first."""
    statement = (
        select(Product)
        .where(Product.status == status)
        .order_by(Product.created_at.desc(), Product.id.desc())
        .limit(limit + 1)
        .options(selectinload(Product.shelf), selectinload(Product.labels))
    )
    if cursor is not None:
        created_at, _, id_ = cursor.partition("_")
        after = datetime.fromisoformat(created_at), UUID(id_)
        statement = statement.where(tuple_(Product.created_at, Product.id) < after)
    products = session.exec(statement).all()
    items, onward = products[:limit], None
    if len(products) > limit:
        onward = f"{items[-1].created_at.isoformat()}_{items[-1].id}"
    return {"items": items, "next_cursor": onward}
