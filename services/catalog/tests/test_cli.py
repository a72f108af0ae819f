"""The seed and the commands of the processes."""

import sys

import pytest
import redis
from sqlalchemy import func, select

from flagon_catalog import __main__ as main
from flagon_catalog import accounts, keeper
from flagon_catalog.models import Category, Product
from flagon_chassis import consumer, relay, server


class TestSeed:
    def test_fills_an_empty_shop_once(self, app, session):
        runner = app.test_cli_runner()

        first = runner.invoke(args=["seed"])
        second = runner.invoke(args=["seed"])

        assert first.output == "24 of 24 products are new.\n"
        assert second.output == "0 of 24 products are new.\n"
        assert session.scalar(select(func.count()).select_from(Product)) == 24
        names = session.scalars(select(Category.name)).all()
        assert "Desk and paper" in names

    def test_leaves_changed_products_to_their_owner(self, app, client):
        runner = app.test_cli_runner()
        runner.invoke(args=["seed"])

        shown = client.get("/api/v1/products?q=mug").json["items"]

        assert {item["sku"] for item in shown} >= {"mug-cobalt", "mug-oat"}

    def test_says_what_is_wrong_with_its_file(self, app, monkeypatch):
        monkeypatch.setattr(
            "flagon_catalog.cli.json.loads",
            lambda _text: {"categories": {}, "products": [{"sku": "a b"}]},
        )

        result = app.test_cli_runner().invoke(args=["seed"])

        assert result.exit_code == 1
        assert "wrong products" in result.output


class TestMain:
    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch):
        monkeypatch.setenv("CATALOG_SECRET_KEY", "s" * 32)
        monkeypatch.setenv("CATALOG_IMAGES_DIR", "/nowhere")
        monkeypatch.setenv("CATALOG_DATABASE_URL", "postgresql+psycopg://x@h/d")

    @pytest.fixture
    def served(self, monkeypatch):
        calls = []

        def serve(*args, **more):
            calls.append((*args, more))

        monkeypatch.setattr(server, "serve", serve)
        return calls

    def test_serves(self, served):
        main.serve(main.Settings())

        assert served[0][1] == "flagon_catalog.app:create_app()"
        assert served[0][2] == {"started": main._keep, "preload": True}

    def test_has_the_library_of_a_bucket_in_no_process_that_forks(
        self, served, monkeypatch
    ):
        monkeypatch.delenv("CATALOG_IMAGES_DIR")
        monkeypatch.setenv("CATALOG_IMAGES_URL", "https://s3.example.com/pictures")
        monkeypatch.setenv("CATALOG_IMAGES_KEY_ID", "id")
        monkeypatch.setenv("CATALOG_IMAGES_KEY", "key")

        main.serve(main.Settings())

        assert served[0][2]["preload"] is False

    def test_sweeps_in_every_process_that_serves(self, app, monkeypatch):
        calls = []
        monkeypatch.setattr(
            keeper, "start", lambda app, seconds: calls.append((app, seconds))
        )

        main._keep(app)

        assert calls == [(app, main.Settings().sweep_seconds)]

    def test_relays(self, monkeypatch, redis_url):
        calls = []
        monkeypatch.setattr(
            relay, "run", lambda *args, told, errands: calls.append((*args, told))
        )

        main.relay(main.Settings(redis_cache_url=redis_url))

        assert calls[0][1] == "catalog"
        # Whoever committed the events may not have lived to say that they happened.
        with redis.Redis.from_url(redis_url) as cache:
            before = cache.get("catalog:answers:content")
            calls[0][2]()
            assert cache.get("catalog:answers:content") not in {None, before}

    def test_consumes_what_it_wants_to_know_alone(self, monkeypatch):
        calls = []
        monkeypatch.setattr(
            consumer, "run", lambda *args, types: calls.append((*args, types))
        )

        main.consumer(main.Settings())

        assert calls[0][1:] == (
            *("catalog", accounts.GROUP, accounts.forget),
            {"market.flagon.user.deleted.v1"},
        )

    @pytest.mark.parametrize("arguments", [[], ["nonsense"], ["serve", "more"]])
    def test_refuses_what_it_does_not_know(self, monkeypatch, arguments):
        monkeypatch.setattr(sys, "argv", ["flagon_catalog", *arguments])

        with pytest.raises(SystemExit, match="usage"):
            main.main()
