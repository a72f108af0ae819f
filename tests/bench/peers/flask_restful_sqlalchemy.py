"""The product list as Flask-RESTful's and Flask-SQLAlchemy's documentation would have it.

Related rows are loaded with `selectinload`, a statement for all products of a page:
without it there would be two for each product.
"""

import os
from datetime import datetime
from uuid import UUID

from flask import Flask
from flask_restful import Api, Resource, fields, inputs, marshal_with, reqparse
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import column_property, selectinload

POOL = int(os.environ["PEER_POOL"])
app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["CATALOG_DATABASE_URL"]
app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": POOL, "max_overflow": 0}
db = SQLAlchemy(app)
api = Api(app)

product_tag = db.Table(
    "product_tag",
    db.Column("product_id", db.ForeignKey("product.id"), primary_key=True),
    db.Column("tag_id", db.ForeignKey("tag.id"), primary_key=True),
)


class Category(db.Model):
    """A shelf of the shop."""

    id = db.Column(db.Uuid, primary_key=True)
    slug = db.Column(db.Text)


class Tag(db.Model):
    """A word that products are marked with."""

    id = db.Column(db.Uuid, primary_key=True)
    slug = db.Column(db.Text)


class Reservation(db.Model):
    """A quantity of a product that is put aside."""

    id = db.Column(db.Uuid, primary_key=True)
    product_id = db.Column(db.Uuid)
    quantity = db.Column(db.Integer)
    ended_at = db.Column(db.DateTime(timezone=True))
    expires_at = db.Column(db.DateTime(timezone=True))


class Product(db.Model):
    """Something that can be bought."""

    id = db.Column(db.Uuid, primary_key=True)
    sku = db.Column(db.Text)
    slug = db.Column(db.Text)
    name = db.Column(db.Text)
    description = db.Column(db.Text)
    price_minor = db.Column(db.BigInteger)
    currency = db.Column(db.CHAR(3))
    status = db.Column(db.Text)
    stock = db.Column(db.Integer)
    category_id = db.Column(db.ForeignKey("category.id"))
    attributes = db.Column(JSONB)
    rating_count = db.Column(db.Integer)
    rating_sum = db.Column(db.Integer)
    version = db.Column(db.Integer)
    created_at = db.Column(db.DateTime(timezone=True))
    updated_at = db.Column(db.DateTime(timezone=True))
    category = db.relationship(Category)
    labels = db.relationship(Tag, secondary=product_tag)
    available = column_property(
        stock
        - select(func.coalesce(func.sum(Reservation.quantity), 0))
        .where(
            Reservation.product_id == id,  # noqa: A003 (the column)
            Reservation.ended_at.is_(None),
            Reservation.expires_at > func.now(),
        )
        .correlate_except(Reservation)
        .scalar_subquery()
    )

    @property
    def tags(self):
        """The slugs of the tags."""
        return sorted(tag.slug for tag in self.labels)

    @property
    def rating(self):
        """The rating, in short."""
        count = self.rating_count
        average = round(self.rating_sum / count, 2) if count else None
        return {"count": count, "average": average}


PRODUCT = {
    "id": fields.String,
    "sku": fields.String,
    "slug": fields.String,
    "name": fields.String,
    "description": fields.String,
    "price_minor": fields.Integer,
    "currency": fields.String,
    "status": fields.String,
    "stock": fields.Integer,
    "available": fields.Integer,
    "category": fields.String(attribute="category.slug"),
    "tags": fields.List(fields.String),
    "attributes": fields.Raw,
    "rating": fields.Raw,
    "version": fields.Integer,
    "created_at": fields.DateTime(dt_format="iso8601"),
    "updated_at": fields.DateTime(dt_format="iso8601"),
}
PAGE = {"items": fields.List(fields.Nested(PRODUCT)), "next_cursor": fields.String}

parser = reqparse.RequestParser()
parser.add_argument(
    "status",
    choices=("active", "draft", "archived"),
    default="active",
    location="args",
)
parser.add_argument("limit", type=inputs.int_range(1, 100), default=20, location="args")
parser.add_argument("cursor", location="args")


class ProductList(Resource):
    """All products."""

    @marshal_with(PAGE)
    def get(self):
        """List products, the newest first."""
        asked = parser.parse_args()
        limit = asked["limit"]
        statement = (
            db.select(Product)
            .where(Product.status == asked["status"])
            .order_by(Product.created_at.desc(), Product.id.desc())
            .limit(limit + 1)
            .options(selectinload(Product.category), selectinload(Product.labels))
        )
        if asked["cursor"]:
            created_at, _, id_ = asked["cursor"].partition("_")
            after = datetime.fromisoformat(created_at), UUID(id_)
            statement = statement.where(tuple_(Product.created_at, Product.id) < after)
        products = db.session.scalars(statement).all()
        items, onward = products[:limit], None
        if len(products) > limit:
            onward = f"{items[-1].created_at.isoformat()}_{items[-1].id}"
        return {"items": items, "next_cursor": onward}


api.add_resource(ProductList, "/products")
