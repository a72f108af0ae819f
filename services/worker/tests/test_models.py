"""The tables are those of the models."""

from flagon_chassis.testing import differences
from flagon_worker.models import Base


class TestMigrations:
    def test_add_up_to_the_models(self, database_url):
        assert differences(database_url, Base.metadata) == []
