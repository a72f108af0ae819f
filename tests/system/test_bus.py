"""RabbitMQ as the event bus: what it lets pass is what the services tell and want."""

import json
import re

import pytest

from flagon_catalog import accounts

from .conftest import ROOT

DEFINITIONS = json.loads(
    (ROOT / "deploy" / "rabbitmq" / "definitions.json.template").read_text()
)
EVENTS = {
    service: [
        f"market.flagon.{path.stem}"
        for path in (ROOT / f"services/{service}/src").glob("*/events/*.json")
    ]
    for service in ("auth", "catalog", "worker")
}


def of_events(part):
    return [one for one in DEFINITIONS[part] if one.get("vhost") == "events"]


def keys(queue):
    """Return the routing keys that bind a queue to the exchange of events."""
    return {
        one["routing_key"]
        for one in of_events("bindings")
        if one["destination"] == queue and one["source"] == "events"
    }


class TestRights:
    @pytest.mark.parametrize("service", EVENTS)
    def test_let_a_service_tell_all_its_events_and_no_others(self, service):
        [pattern] = [
            one["write"]
            for one in of_events("topic_permissions")
            if one["user"] == service and one["exchange"] == "events"
        ]

        for teller, types in EVENTS.items():
            assert types
            for type_ in types:
                assert bool(re.search(pattern, type_)) == (teller == service), type_
        assert not re.search(pattern, "custom.robot.reading.v1")

    def test_let_nobody_make_anything(self):
        assert {one["configure"] for one in DEFINITIONS["permissions"]} == {"^$"}


class TestQueues:
    def test_of_who_follows_and_of_the_archive_get_every_event(self):
        assert keys("events") == {"market.#", "custom.#", "mark"}
        assert keys("worker-archive") == {"market.#", "custom.#"}

    def test_of_a_group_get_what_it_handles(self):
        assert keys(accounts.GROUP) == accounts.TYPES

    def test_of_groups_forget_nothing(self):
        for queue in of_events("queues"):
            arguments = queue["arguments"]
            if arguments["x-queue-type"] == "quorum":
                assert arguments["x-dead-letter-exchange"] == "dead"
                assert arguments["x-delivery-limit"] == 100
