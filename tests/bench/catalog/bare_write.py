"""The least that a write can be: the rows that the catalog leaves, and nothing else.

psycopg itself and no framework, under the same gunicorn as the catalog: the product, its
price, the audit row, the event in the outbox and the stored answer for the key, in one
transaction. No token is looked at, nothing is checked, limited, measured or logged.
"""

import json
from datetime import UTC, datetime

from bare import Bare, sent
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from flagon_catalog.settings import Settings
from flagon_chassis import server

ROW = """
with written as (
    insert into product (id, sku, slug, name, description, price_minor, currency, status,
        stock, category_id, attributes)
    select %(id)s, %(sku)s, %(slug)s, %(name)s, %(description)s, %(price_minor)s,
        %(currency)s, %(status)s, %(stock)s, category.id, %(attributes)s
    from category where slug = %(category)s
    returning id, version, price_minor, currency, updated_at)
insert into price (product_id, version, price_minor, currency, "from")
    select id, version, price_minor, currency, updated_at from written
"""
AUDIT = """
insert into audit (actor, client, action, entity, entity_id, version, changes)
values ('bench', 'bench', 'created', 'product', %s, 1, %s)
"""
EVENT = """
insert into outbox (id, channel, name, subject, body, headers)
values (%s, 'event', 'market.flagon.product.changed.v1', %s, %s, '{}')
returning pg_notify('outbox', '')
"""
ANSWER = """
insert into idempotency_key (scope, key, fingerprint, status, headers, body)
values ('bench POST /api/v1/products', %s, '', 201, '{}', %s)
"""


class BareWrite(Bare):
    """A WSGI app that takes any request as a product and keeps it."""

    def __call__(self, environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if not length:
            # Asked whether it is there.
            return sent(start_response, "200 OK", b"{}")
        product = json.loads(environ["wsgi.input"].read(length))
        product["id"] = uuid7()
        now = datetime.now(UTC).isoformat()
        shown = {**product, "id": str(product["id"]), "created_at": now}
        body = json.dumps(shown).encode()
        connection, attributes = self.connection, Jsonb(product["attributes"])
        with connection.transaction():
            connection.execute(ROW, {**product, "attributes": attributes})
            connection.execute(
                AUDIT, [product["id"], Jsonb({"sku": {"to": product["sku"]}})]
            )
            connection.execute(EVENT, [uuid7(), str(product["id"]), Jsonb(shown)])
            connection.execute(ANSWER, [environ["HTTP_IDEMPOTENCY_KEY"], body])
        return sent(start_response, "201 Created", body)


def create_app():
    """Return the app with what its environment says."""
    return BareWrite(Settings())


if __name__ == "__main__":
    server.serve(Settings(), "bare_write:create_app()")
