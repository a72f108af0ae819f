"""What a query would cost, worked out before anything of it is checked or done.

Fragments are weighed once each, however often they are spread, so the work is linear in
the size of the document even where its meaning grows exponentially.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
)

from flagon_catalog.models import LEVELS_MAX
from flagon_catalog.schemas import TAGS_MAX
from flagon_chassis.errors import Invalid
from flagon_chassis.paging import LIMIT_MAX

FIRST = 20
"""How many a connection gives when nothing is said."""
CONNECTIONS = frozenset({"products", "categories", "children", "reviews", "prices"})
"""Fields that give as many as `first` says."""
LISTS = {"tags": TAGS_MAX, "ancestors": LEVELS_MAX - 1}
"""Fields that give a list without `first`, with the most that it can hold."""
WRAPPERS = frozenset({"edges", "node", "nodes", "pageInfo", "rating"})
"""Objects that come with the one that they are in."""
INTROSPECTION = frozenset({"__schema", "__type"})
REPEATS_MAX = 20
"""Most times that an object is asked for beyond the first, in the same place and under
the same name. Each pair of those is compared by the validation."""


class QueryTooDeep(Invalid):
    """The query is nested too deeply."""


class QueryTooCostly(Invalid):
    """The query costs too much."""


class QueryTooLarge(Invalid):
    """The query has too many fields, aliases or words."""


@dataclass(frozen=True)
class Limits:
    """How much is carried out; see the settings of the same names."""

    cost: int
    depth: int
    fields: int
    aliases: int


@dataclass
class Weight:
    """What a selection amounts to, with all that its fragments bring."""

    cost: int = 0
    depth: int = 0
    fields: int = 0
    aliases: int = 0
    repeats: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    """How often each name is asked for with a selection, right here."""

    def add(self, other: "Weight") -> None:
        """Count what is selected in the same place."""
        self.cost += other.cost
        self.depth = max(self.depth, other.depth)
        self.fields += other.fields
        self.aliases += other.aliases
        self.repeats += other.repeats
        self.objects.update(other.objects)


def weigh(
    document: DocumentNode, variables: Mapping[str, Any], operation: str | None
) -> tuple[Weight, Weight]:
    """Return what an operation weighs, and what the whole document does.

    :param operation: its name, None when there is only one.
    """
    chosen, whole = Weight(), Weight()
    scale = _Scale(document, variables)
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            weight = scale.operation(definition)
            whole.add(weight)
            name = definition.name.value if definition.name else None
            if operation in {None, name}:
                chosen = weight
        elif isinstance(definition, FragmentDefinitionNode):
            # Validation looks at those that nobody spreads as well.
            whole.add(scale.place(definition.selection_set))
    return chosen, whole


def check(chosen: Weight, whole: Weight, limits: Limits) -> None:
    """Refuse what weighs too much.

    :raises QueryTooDeep: there are too many levels of braces.
    :raises QueryTooLarge: there are too many fields or aliases, or they repeat.
    :raises QueryTooCostly: too many things might have to be read.
    """
    if whole.depth > limits.depth:
        raise QueryTooDeep(
            f"A query has at most {limits.depth} levels.", maximum=limits.depth
        )
    for name, found, most in (
        ("fields", whole.fields, limits.fields),
        ("aliases", whole.aliases, limits.aliases),
        ("repeated objects", whole.repeats, REPEATS_MAX),
    ):
        if found > most:
            raise QueryTooLarge(f"A query has at most {most} {name}.", maximum=most)
    if chosen.cost > limits.cost:
        raise QueryTooCostly(
            f"The query costs {_told(chosen.cost)} and may cost {limits.cost}. Ask for"
            " smaller pages, or for less of each item.",
            maximum=limits.cost,
        )


def _told(cost: int) -> str:
    # Fragments can make a number that is longer than the query.
    return str(cost) if cost < 10**9 else "more than 10^9"


class _Scale:
    def __init__(self, document: DocumentNode, variables: Mapping[str, Any]) -> None:
        self._given = variables
        self._variables: dict[str, Any] = {}
        self._fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        self._known: dict[str, Weight] = {}

    def operation(self, node: OperationDefinitionNode) -> Weight:
        # What fragments weigh depends on the operation's variables.
        self._known.clear()
        self._variables = {
            definition.variable.name.value: self._given.get(
                definition.variable.name.value, definition.default_value
            )
            for definition in node.variable_definitions or ()
        }
        return self.place(node.selection_set)

    def place(self, node: SelectionSetNode) -> Weight:
        """Weigh all of one pair of braces that belongs to an object."""
        weight = self._selection(node)
        repeated = weight.objects.total() - len(weight.objects)
        return Weight(
            weight.cost,
            weight.depth + 1,
            weight.fields,
            weight.aliases,
            weight.repeats + repeated,
        )

    def _selection(self, node: SelectionSetNode) -> Weight:
        weight = Weight()
        for selection in node.selections:
            if isinstance(selection, FieldNode):
                weight.add(self._field(selection))
            elif isinstance(selection, FragmentSpreadNode):
                weight.add(self._fragment(selection.name.value))
            else:
                weight.add(self._selection(selection.selection_set))  # type: ignore[attr-defined]
        return weight

    def _fragment(self, name: str) -> Weight:
        if name not in self._known:
            # A circle ends here, and is refused by the validation, as is what is unknown.
            self._known[name] = Weight()
            if name in self._fragments:
                self._known[name] = self._selection(self._fragments[name].selection_set)
        return self._known[name]

    def _field(self, node: FieldNode) -> Weight:
        aliases = int(node.alias is not None)
        if node.selection_set is None:
            return Weight(fields=1, aliases=aliases)
        name = node.name.value
        inner = self.place(node.selection_set)
        weight = Weight(
            cost=self._cost(node, inner.cost),
            depth=inner.depth,
            fields=1 + inner.fields,
            aliases=aliases + inner.aliases,
            repeats=inner.repeats,
            objects=Counter([node.alias.value if node.alias else name]),
        )
        if name in INTROSPECTION:
            # Where it is allowed at all, it is as deep as tools ask for it.
            weight.cost, weight.depth = 1, 0
        return weight

    def _cost(self, node: FieldNode, inner: int) -> int:
        name = node.name.value
        if name in WRAPPERS:
            return inner
        if name in CONNECTIONS:
            return 1 + self._first(node) * (1 + inner)
        if name in LISTS:
            return 1 + LISTS[name] * (1 + inner)
        return 1 + inner

    def _first(self, node: FieldNode) -> int:
        for argument in node.arguments or ():
            if argument.name.value == "first":
                return self._number(argument.value)
        return FIRST

    def _number(self, node: ValueNode) -> int:
        value: Any = node
        if isinstance(value, VariableNode):
            value = self._variables.get(value.name.value)
            if value is None:
                return FIRST
        if isinstance(value, IntValueNode):
            # Not int(): a number of ten thousand digits is work, and too many anyway.
            value = int(value.value) if len(value.value) < len("1000000000") else 10**9
        # What is no number is refused later; nothing may make others cheaper.
        return max(value, 1) if type(value) is int else LIMIT_MAX
