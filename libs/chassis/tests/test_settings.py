import pytest
from pydantic import ValidationError

from flagon_chassis.settings import DatabaseSettings, ServiceSettings

from .conftest import SECRET


class Settings(DatabaseSettings, env_prefix="THINGS_"):
    """A service's settings."""


class TestServiceSettings:
    def test_are_read_from_the_environment(self, monkeypatch):
        monkeypatch.setenv("THINGS_SECRET_KEY", SECRET)
        monkeypatch.setenv("THINGS_DATABASE_URL", "postgresql+psycopg://a@b/c")
        monkeypatch.setenv("THINGS_THREADS", "3")

        settings = Settings()

        assert settings.threads == 3
        assert settings.environment == "production"
        assert SECRET not in repr(settings)

    def test_take_the_release_of_the_image(self, monkeypatch):
        needed = {"secret_key": SECRET, "database_url": "postgresql+psycopg://a@b/c"}
        monkeypatch.delenv("FLAGON_RELEASE", raising=False)
        assert Settings(**needed).release == ""

        monkeypatch.setenv("FLAGON_RELEASE", "1.2.3")
        assert Settings(**needed).release == "1.2.3"

        monkeypatch.setenv("THINGS_RELEASE", "1.2.4")
        assert Settings(**needed).release == "1.2.4"

    @pytest.mark.parametrize(
        "bad", [{"secret_key": "short"}, {"threads": 0}, {"trace_ratio": 2}]
    )
    def test_bad_values_stop_the_process(self, bad):
        with pytest.raises(ValidationError, match=next(iter(bad))):
            ServiceSettings(**({"secret_key": SECRET} | bad))

    def test_cannot_be_changed(self):
        settings = ServiceSettings(secret_key=SECRET)

        with pytest.raises(ValidationError):
            settings.threads = 1

    def test_problems_are_explained_below_the_public_address(self):
        own = ServiceSettings(secret_key=SECRET, public_url="https://shop.test")
        other = ServiceSettings(secret_key=SECRET, docs_url="https://docs.test")

        assert own.problems_url == "https://shop.test/docs/problems"
        assert other.problems_url == "https://docs.test/problems"
