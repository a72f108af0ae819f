"""What a category asks of the attributes of its products: checked schemas, cached."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from json import dumps, loads
from typing import Any

from jsonschema_rs import (
    Draft202012Validator,
    RegexOptions,
    ValidationError,
    ValidationErrorKind,
)
from pydantic_core import to_json

from flagon_chassis.errors import Invalid

DIALECT = "https://json-schema.org/draft/2020-12/schema"
BYTES_MAX = 16_384
"""Longest schema, as JSON without spaces."""
SIZE_MAX = 1000
"""Most values in a schema, counted with what each `$ref` names in its place."""
HEIGHT_MAX = 16
"""Most schemas inside each other, counted likewise."""
SCANS_MAX = 50
"""Most keywords that read a whole text or list, counted likewise."""
ERRORS_MAX = 20
"""Most errors that are told of one product."""

# Work is the size of a schema times the bytes of the attributes. What reads whole texts
# weighs more. A unit takes about ten nanoseconds at worst, telling errors two microseconds.
_SCAN_WEIGHT = 30
WORK_MAX = 50_000_000
"""Most work for one product."""
BATCH_WORK_MAX = 1_000_000_000
"""Most work for all products of one request."""
TOLD_WORK_MAX = 200_000
"""Most work for which the errors of one product are told one by one."""
BATCH_TOLD_WORK_MAX = 4_000_000
"""The same for all products of one request."""

_CACHED = 256

# `regex` matches in linear time and knows no look-around and no back references. The
# first bounds a compiled pattern, the second what it remembers while it matches: far
# more than the first, because a matcher that forgets begins again at every character.
_PATTERNS = RegexOptions(size_limit=20_000, dfa_size_limit=1_000_000)

_ONE = frozenset(
    {
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
    }
)
_SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"$defs", "dependentSchemas", "patternProperties", "properties"})
_PLAIN = frozenset(
    {
        "$comment",
        "$ref",
        "$schema",
        "const",
        "default",
        "dependentRequired",
        "deprecated",
        "description",
        "enum",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "readOnly",
        "required",
        "title",
        "type",
        "uniqueItems",
        "writeOnly",
    }
)
_AT_ROOT = frozenset({"$defs", "$schema"})
_SCANS = frozenset({"format", "pattern", "uniqueItems"})
_FORMATS = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "uri",
        "uuid",
    }
)
_REF = re.compile(r"#/\$defs/([A-Za-z0-9_.-]+)")

Error = dict[str, str]
Path = tuple[str | int, ...]


class AttributeSchemaInvalid(Invalid):
    """A category's attribute schema cannot be used."""


class AttributesUnfit(Invalid):
    """The attributes do not fit what the product's category asks for."""


@dataclass(frozen=True)
class Rule:
    """What one category asks for."""

    slug: str
    name: str
    schema: str
    """JSON."""


@dataclass
class Budget:
    """How much work the products of one request may still make."""

    work: int = BATCH_WORK_MAX
    told: int = BATCH_TOLD_WORK_MAX

    def take(self, work: int) -> bool:
        """Spend some, and say whether there was enough for it."""
        if work > min(self.work, WORK_MAX):
            return False
        self.work -= work
        return True

    def take_telling(self, work: int) -> bool:
        """Spend some on telling errors, and say whether there was enough for it."""
        if work > min(self.told, TOLD_WORK_MAX):
            return False
        self.told -= work
        return True


@dataclass
class _Part:
    """The root of a schema, or one of its `$defs`."""

    size: int = 0
    scans: int = 0
    height: int = 0
    refs: list[tuple[str, int]] = field(default_factory=list)
    """What it refers to, and how far below its top."""


def check_schema(document: Mapping[str, Any]) -> None:
    """Make sure that a schema can be used on products at a bounded cost.

    It may refer to its own `$defs` alone, and not in circles. Nothing is ever fetched.

    :raises AttributeSchemaInvalid: it cannot, with pointers into the schema.
    """
    if len(to_json(document)) > BYTES_MAX:
        raise _invalid([((), f"A schema has at most {BYTES_MAX} bytes.")])
    if document.get("type") != "object":
        raise _invalid([(("type",), "Attributes are an object: say so.")])
    if document.get("$schema", DIALECT) != DIALECT:
        raise _invalid([(("$schema",), f"The dialect is {DIALECT}.")])
    wrong = list(islice(_misused(document), ERRORS_MAX))
    if wrong:
        raise _invalid(wrong)
    # Before it is compiled: that takes as long as it is large.
    _measure(document)
    try:
        # Also checks it by the metaschema.
        _compile(dumps(document))
    except ValidationError as error:
        where = tuple(error.instance_path)
        detail = error.message[:300]
        if "regex" in detail:
            detail = "A pattern is short and has no look-around and no back reference."
        raise _invalid([(where, detail)]) from error


def _misused(document: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield where a schema says what no attribute schema may say."""
    for where, _, schema in _schemas(document):
        for keyword, value in schema.items():
            place = (*where, keyword)
            if keyword not in _ONE | _SEVERAL | _NAMED | _PLAIN:
                yield place, "Attribute schemas have no such keyword."
            elif keyword in _AT_ROOT and where:
                yield place, "It may be at the root alone."
            elif keyword == "$ref":
                named = _REF.fullmatch(value) if isinstance(value, str) else None
                definitions = document.get("$defs")
                if named is None:
                    yield place, "Refer to `#/$defs/<name>` in the same schema."
                elif not isinstance(definitions, dict) or named[1] not in definitions:
                    yield place, "There is no such definition."
            elif keyword == "format" and not (
                isinstance(value, str) and value in _FORMATS
            ):
                yield place, f"Known formats are {', '.join(sorted(_FORMATS))}."


def _schemas(top: object) -> Iterator[tuple[Path, int, Mapping[str, Any]]]:
    """Yield each schema in a schema with its path and its level, from itself (1) on.

    Booleans are left out, and what is in the wrong place is left to the metaschema.
    """
    waiting: list[tuple[Path, int, object]] = [((), 1, top)]
    while waiting:
        where, level, schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        yield where, level, schema
        for keyword, value in schema.items():
            place, below = (*where, keyword), level + 1
            if keyword in _ONE:
                waiting.append((place, below, value))
            elif keyword in _SEVERAL and isinstance(value, list):
                waiting += (((*place, i), below, each) for i, each in enumerate(value))
            elif keyword in _NAMED and isinstance(value, dict):
                waiting += (
                    ((*place, name), below, each) for name, each in value.items()
                )


def _measure(document: Mapping[str, Any]) -> _Part:
    """Return how large a schema is, with what each `$ref` names in its place.

    :raises AttributeSchemaInvalid: it is too large, or refers to itself.
    """
    definitions = document.get("$defs")
    parts = {"": _part({**document, "$defs": None})}
    if isinstance(definitions, dict):
        parts |= {f"#/$defs/{name}": _part(each) for name, each in definitions.items()}
    order = TopologicalSorter(
        {name: [ref for ref, _ in part.refs] for name, part in parts.items()}
    )
    try:
        names = list(order.static_order())
    except CycleError as error:
        place = tuple(error.args[1][0].split("/", 2)[1:])
        raise _invalid([(place, "It refers to itself.")]) from error
    for name in names:
        part = parts[name]
        for ref, level in part.refs:
            named = parts[ref]
            part.size += named.size
            part.scans += named.scans
            part.height = max(part.height, level + named.height)
        place = tuple(name.split("/", 2)[1:])
        for most, is_, noun in (
            (SIZE_MAX, part.size, "values"),
            (SCANS_MAX, part.scans, "patterns, formats and `uniqueItems`"),
            (HEIGHT_MAX, part.height, "schemas inside each other"),
        ):
            if is_ > most:
                detail = f"With what it refers to it has more than {most} {noun}."
                raise _invalid([(place, detail)])
    return parts[""]


def _part(top: object) -> _Part:
    """Return how large one part of a schema is by itself."""
    part = _Part(size=sum(1 for _ in _values(top)))
    for _, level, schema in _schemas(top):
        part.height = max(part.height, level)
        part.scans += len(_SCANS & schema.keys())
        patterns = schema.get("patternProperties")
        part.scans += len(patterns) if isinstance(patterns, dict) else 0
        if "$ref" in schema:
            part.refs.append((schema["$ref"], level))
    return part


def _values(top: object) -> Iterator[object]:
    """Yield each value in a JSON value, and itself."""
    waiting = [top]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _invalid(wrong: Sequence[tuple[Path, str]]) -> AttributeSchemaInvalid:
    errors = [
        {"pointer": _pointer("attribute_schema", *where), "detail": detail}
        for where, detail in wrong
    ]
    return AttributeSchemaInvalid(errors[0]["detail"], errors=errors)


def check_attributes(
    attributes: Mapping[str, Any], rules: Sequence[Rule], *, pointer: str = "attributes"
) -> None:
    """Make sure that a product's attributes fit what its categories ask for.

    :param rules: of the product's category and of those above it.
    :raises AttributesUnfit: they do not.
    """
    errors = misfits(attributes, rules, Budget(), pointer=pointer)
    if errors:
        raise AttributesUnfit(errors[0]["detail"], errors=errors)


def misfits(
    attributes: Mapping[str, Any],
    rules: Sequence[Rule],
    budget: Budget,
    *,
    pointer: str = "attributes",
) -> list[Error]:
    """Return what is wrong with attributes: pointer, sentence and category's slug.

    What is larger than the budget is wrong as well.
    """
    errors: list[Error] = []
    for rule in rules:
        validator, cost = _compiled(rule.schema)
        work = cost * len(to_json(attributes))

        def told(detail: str, *where: str | int, rule: Rule = rule) -> Error:
            return {
                "pointer": _pointer(pointer, *where),
                "detail": f"{detail} (as the category {rule.name} asks for)",
                "category": rule.slug,
            }

        if not budget.take(work):
            errors.append(told("Too much to check; send fewer at once or shorter ones"))
        elif validator.is_valid(attributes):
            continue
        elif budget.take_telling(work):
            found = validator.iter_errors(attributes)
            for error in islice(found, ERRORS_MAX):
                errors += [told(detail, *where) for where, detail in _explained(error)]
        else:
            errors.append(told("They do not fit"))
    return errors[:ERRORS_MAX]


def _explained(error: ValidationError) -> list[tuple[Path, str]]:
    """Return which values an error is about, and what is wrong with them."""
    where = tuple(error.instance_path)
    match error.kind:
        case ValidationErrorKind.Required():
            name = error.kind.as_dict()["property"]
            return [((*where, name), "It is required")]
        case ValidationErrorKind.AdditionalProperties():
            names = error.kind.as_dict()["unexpected"]
            return [((*where, name), "There is no such attribute") for name in names]
    return [(where, error.message[:300])]


def same(one: object, other: object) -> bool:
    """Say whether two JSON values are the same; for Python, true is 1 as well."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same(value, other[name]) for name, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# By the schema itself and not by its category's version, so that nothing ever has to be
# thrown away: neither what was rolled back nor a restored database can make it wrong.
@lru_cache(maxsize=_CACHED)
def _compiled(schema: str) -> tuple[Draft202012Validator, int]:
    """Return the validator of a checked schema and what it costs for each byte."""
    part = _measure(loads(schema))
    return _compile(schema), part.size + _SCAN_WEIGHT * part.scans


def _compile(schema: str) -> Draft202012Validator:
    return Draft202012Validator(
        loads(schema),
        validate_formats=True,
        pattern_options=_PATTERNS,
        # Nothing to fetch is let in, and nothing is fetched if it were.
        offline=True,
        # Texts of products can be long, and logs and answers are not.
        mask="The value",
    )


def _pointer(*parts: str | int) -> str:
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return "#" + "".join(f"/{part}" for part in escaped)
