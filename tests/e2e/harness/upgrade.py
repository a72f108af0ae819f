"""The drill: from one release to the next and back, while everybody works."""

import sys

from harness.engine import ROOT

sys.path.insert(0, str(ROOT / "deploy" / "local"))

from flagonctl import beside, compose, local, roll
from flagonctl.problem import Problem
from flagonctl.processes import OWNERS
from flagonctl.stack import Stack

__all__ = ["Drill", "Problem", "Stack", "beside", "released", "roll", "start"]

PATCHES = ROOT / "deploy" / "drill" / "next"
NEW_MEMBER = "price_changed_at"
"""Of a product, which the next release shows and this one does not know."""
BEFORE_EXPAND = "0016"
"""Revision of the catalog's tables without what the next release adds."""
_SEEN = 40
"""Answers that are waited for where nothing changes; fewer while something does."""


def released(stack, reference):
    """Return the tree of an earlier release."""
    return roll.released(Stack(stack.mode, stack.port_base), "earlier", reference)


def start(stack, tree):
    """Start a stack on the code of a tree, or as it is without one."""
    if tree is None:
        stack.up()
    else:
        up = compose.up if stack.mode == "docker" else local.up
        up(Stack(stack.mode, stack.port_base), code=tree)
    stack.ready()


class Drill:
    """Goes to the next release, service by service, and back, without pauses.

    The next release is this one with patches; where an earlier one is given, that one
    runs now and this one is the next.

    :param stack: the harness' stack; everything runs the first release.
    :param services: that are rolled, in this order, and back in the other one.
    :param seen: answers that are waited for in each quiet step.
    :param earlier: the tree of an earlier release.
    """

    def __init__(self, stack, services, *, seen=_SEEN, earlier=None):
        self.platform, self.stack = stack, Stack(stack.mode, stack.port_base)
        self.way = beside.of(self.stack)
        self.services, self.seen, self.earlier = services, seen, earlier
        self.next = None
        if earlier is None:
            self.next = roll.patched(self.stack, "next", PATCHES)
        # Before anybody comes: what is measured is the change, not a compiler.
        self.way.build(services, self.next)
        self.traffic, self.said = None, []

    def run(self, traffic):
        """Go there and back while people come.

        `said` holds afterwards what the workers of the next release have logged.
        """
        self.traffic = traffic
        traffic.mark("all on N")
        traffic.more(self.seen)
        traffic.mark("expand")
        for service in OWNERS if self.earlier else ("catalog",):
            self.way.migrate(service, self.next)
        traffic.more(self.seen // 2)
        for service in self.services:
            self._roll(service, self.next, "N+1")
        traffic.mark("all on N+1")
        traffic.more(self.seen)
        # A container's lines go with it.
        self.said = self.platform.logs("worker-interactive", "worker-bulk")
        for service in reversed(self.services):
            self._roll(service, self.earlier, "N")
        traffic.mark("all on N again")
        traffic.more(self.seen)
        traffic.more(1, _handed_in)

    def clean(self):
        """Take back what the next release added to the tables, when all is over.

        Nobody would do that after a rollback that is meant: the next try needs it.
        """
        if self.next is not None:
            self.way.take_back("catalog", self.next, BEFORE_EXPAND)

    def _roll(self, service, code, release):
        traffic, some = self.traffic, max(2, self.seen // 4)

        def beside():
            traffic.mark(f"{service}: both")
            if service == "catalog" and self.earlier is None:
                # They take turns at one socket, but the gateway keeps connections to the
                # old one: the new one has little to answer.
                for new in (False, True):
                    traffic.more(min(some, 5), lambda one, new=new: _shows(one) is new)
            else:
                traffic.more(some)
            traffic.mark(f"{service}: the old one drains")

        def behind():
            traffic.mark(f"{service}: alone on {release}")
            if service == "worker":
                # Messages of one release, read by the other, whose processes are there.
                traffic.more(2, _handed_in)
            else:
                traffic.more(some)
            if service in OWNERS:
                traffic.mark(f"{service}: relays and queues")

        traffic.mark(f"{service}: {release} starts")
        roll.roll(self.stack, service, code, beside=beside, behind=behind)


def _shows(answer):
    """Say whether the next release answered; None when nobody can tell."""
    return NEW_MEMBER in answer.told if answer.told else None


def _handed_in(answer):
    return answer.kind in {"hand in a file", "ask the queue"} and not answer.wrong
