"""What of a new document breaks clients that were made for the old one.

There is one question for both directions: does one side accept all that the other may
send? Of a request the server is asked about what old clients send, of an answer the old
client about what the server sends now.
"""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SAYS_NOTHING = {"description", "example", "examples", "summary", "title"}


def contract(document: Json) -> Json:
    """Return what of a document binds: without descriptions and examples."""
    found: Json = {
        "openapi": document["openapi"],
        "info": {key: document["info"][key] for key in ("title", "version")},
        "paths": _binding(document["paths"]),
        "components": {
            "schemas": {
                name: _binding(schema)
                for name, schema in document["components"]["schemas"].items()
            }
        },
    }
    return found


def _binding(found: Any, *, names: bool = False) -> Any:  # noqa: ANN401 (any JSON)
    if isinstance(found, list):
        return [_binding(item) for item in found]
    if not isinstance(found, dict):
        return found
    return {
        # A field may be called `title`, and a status has to have a description.
        name: _binding(item, names=name in {"properties", "schemas"} and not names)
        for name, item in found.items()
        if names or name not in _SAYS_NOTHING
    }


def major(document: Json) -> int:
    """Return the first number of the document's version."""
    return int(document["info"]["version"].split(".")[0])


def breaking(old: Json, new: Json) -> list[str]:
    """Return, in words, each change that breaks a client of the old document."""
    return list(_Comparison(old, new).run())


class _Comparison:
    def __init__(self, old: Json, new: Json) -> None:
        self._old, self._new = old, new
        self._open: set[tuple[int, int]] = set()

    def run(self) -> Iterator[str]:
        for path, item in self._old["paths"].items():
            for method, operation in item.items():
                place = f"{method.upper()} {path}"
                now = self._new["paths"].get(path, {}).get(method)
                if now is None:
                    yield f"{place}: is gone"
                else:
                    yield from self._operation(place, operation, now)

    def _operation(self, place: str, old: Json, new: Json) -> Iterator[str]:
        if old.get("operationId") != new.get("operationId"):
            yield (
                f"{place}: is called {new.get('operationId')},"
                f" was {old.get('operationId')}"
            )
        yield from self._security(place, old, new)
        yield from self._parameters(place, old, new)
        yield from self._body(place, old, new)
        yield from self._responses(place, old, new)

    def _security(self, place: str, old: Json, new: Json) -> Iterator[str]:
        def scopes(operation: Json) -> set[str] | None:
            asked = operation.get("security")
            if not asked:
                return None
            return {
                scope for item in asked for found in item.values() for scope in found
            }

        before, after = scopes(old), scopes(new)
        if after is None:
            return
        if before is None:
            yield f"{place}: needs a token"
        elif after - before:
            yield f"{place}: needs the scope {' '.join(sorted(after - before))}"

    def _parameters(self, place: str, old: Json, new: Json) -> Iterator[str]:
        def named(operation: Json) -> dict[tuple[str, str], Json]:
            return {
                (item["in"], item["name"]): item
                for item in operation.get("parameters", [])
            }

        before, after = named(old), named(new)
        for key, parameter in after.items():
            where = f"{place}: {key[0]} parameter {key[1]}"
            known = before.get(key)
            if parameter.get("required") and not (known and known.get("required")):
                yield f"{where}: is required"
            if known:
                yield from self._accepts(
                    f"{where}", known["schema"], parameter["schema"], sent_by_old=True
                )
        for where, name in before.keys() - after.keys():
            yield f"{place}: {where} parameter {name}: is gone"

    def _body(self, place: str, old: Json, new: Json) -> Iterator[str]:
        before, after = old.get("requestBody"), new.get("requestBody")
        if before is None:
            if after and after.get("required"):
                yield f"{place}: needs a body"
            return
        if after is None:
            yield f"{place}: takes no body"
            return
        if after.get("required") and not before.get("required"):
            yield f"{place}: needs a body"
        for kind, content in before["content"].items():
            if kind not in after["content"]:
                yield f"{place}: takes no {kind}"
                continue
            yield from self._accepts(
                f"{place}: body",
                content["schema"],
                after["content"][kind]["schema"],
                sent_by_old=True,
            )

    def _responses(self, place: str, old: Json, new: Json) -> Iterator[str]:
        after = new["responses"]
        for status, response in old["responses"].items():
            if status not in after:
                yield f"{place}: status {status} is gone"
                continue
            headers = after[status].get("headers", {})
            for name in response.get("headers", {}):
                if name not in headers:
                    yield f"{place}: {status}: header {name} is gone"
            content = after[status].get("content", {})
            for kind, known in response.get("content", {}).items():
                if kind not in content:
                    yield f"{place}: {status}: comes no more as {kind}"
                    continue
                yield from self._accepts(
                    f"{place}: {status}",
                    content[kind]["schema"],
                    known["schema"],
                    sent_by_old=False,
                )

    # -- Schemas ---------------------------------------------------------------------------

    def _accepts(
        self, place: str, sent: Json, taken: Json, *, sent_by_old: bool
    ) -> Iterator[str]:
        """Yield why not all that fits `sent` fits `taken`.

        :param sent_by_old: whether `sent` is of the old document, as of a request.
        """
        sent = self._resolved(sent, old=sent_by_old)
        taken = self._resolved(taken, old=not sent_by_old)
        pair = (id(sent), id(taken))
        if sent == taken and "$ref" not in str(sent):
            return
        if pair in self._open:
            # A schema that holds itself: it is being looked at.
            return
        self._open.add(pair)
        try:
            yield from self._alternatives(place, sent, taken, sent_by_old=sent_by_old)
        finally:
            self._open.discard(pair)

    def _resolved(self, schema: Json, *, old: bool) -> Json:
        document = self._old if old else self._new
        while "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[-1]
            schema = document["components"]["schemas"][name]
        return schema

    def _alternatives(
        self, place: str, sent: Json, taken: Json, *, sent_by_old: bool
    ) -> Iterator[str]:
        offers, takes = _options(sent), _options(taken)
        if len(offers) == len(takes) == 1:
            yield from self._plain(place, offers[0], takes[0], sent_by_old=sent_by_old)
            return
        for offer in offers:
            reasons = [
                list(self._accepts(place, offer, take, sent_by_old=sent_by_old))
                for take in takes
            ]
            # The nearest one says best what is wrong.
            yield from min(reasons, key=len)

    def _plain(
        self, place: str, sent: Json, taken: Json, *, sent_by_old: bool
    ) -> Iterator[str]:
        change = "no more" if sent_by_old else "now"
        if excess := sorted(_types(sent) - _types(taken)):
            yield f"{place}: {change} {', '.join(excess)}"
            return
        yield from _values(place, sent, taken, change)
        for key in _UPPER:
            if key in taken and (key not in sent or sent[key] > taken[key]):
                yield f"{place}: {key} is {_change(key, sent, taken, sent_by_old)}"
        for key in _LOWER:
            if key in taken and (key not in sent or sent[key] < taken[key]):
                yield f"{place}: {key} is {_change(key, sent, taken, sent_by_old)}"
        for key in ("pattern", "format", "uniqueItems", "multipleOf", "allOf", "not"):
            if taken.get(key, False) and sent.get(key) != taken[key]:
                yield f"{place}: {key} is {_change(key, sent, taken, sent_by_old)}"
        if "object" in _types(sent):
            yield from self._object(place, sent, taken, sent_by_old=sent_by_old)
        if "items" in taken and "array" in _types(sent):
            yield from self._accepts(
                f"{place}[]",
                sent.get("items", {}),
                taken["items"],
                sent_by_old=sent_by_old,
            )

    def _object(
        self, place: str, sent: Json, taken: Json, *, sent_by_old: bool
    ) -> Iterator[str]:
        fields, known = sent.get("properties", {}), taken.get("properties", {})
        missing = set(taken.get("required", [])) - set(sent.get("required", []))
        for name in sorted(missing):
            said = "is required" if sent_by_old else "may be missing or is gone"
            yield f"{place}.{name}: {said}"
        rest = taken.get("additionalProperties", True)
        for name, schema in fields.items():
            if name in known:
                yield from self._accepts(
                    f"{place}.{name}", schema, known[name], sent_by_old=sent_by_old
                )
            elif rest is False and sent_by_old:
                yield f"{place}.{name}: is gone"
        if not sent_by_old:
            # Nobody promised that it is always there, but somebody shows it.
            for name in sorted(known.keys() - fields.keys() - missing):
                yield f"{place}.{name}: is gone"
        others = sent.get("additionalProperties", True)
        if rest is False and others is not False and sent_by_old:
            yield f"{place}: takes no other fields"
        elif isinstance(rest, dict) and others is not False:
            yield from self._accepts(
                f"{place}.*",
                others if isinstance(others, dict) else {},
                rest,
                sent_by_old=sent_by_old,
            )


def _options(schema: Json) -> list[Json]:
    found = schema.get("anyOf") or schema.get("oneOf")
    return list(found) if found else [schema]


def _types(schema: Json) -> set[str]:
    kinds = schema.get("type", _TYPES)
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    return found | {"integer"} if "number" in found else found


def _values(place: str, sent: Json, taken: Json, change: str) -> Iterator[str]:
    allowed = [taken["const"]] if "const" in taken else taken.get("enum")
    if allowed is None:
        return
    given = [sent["const"]] if "const" in sent else sent.get("enum")
    if given is None:
        yield f"{place}: {change} any value"
    elif excess := [value for value in given if value not in allowed]:
        yield f"{place}: {change} {', '.join(map(str, excess))}"


def _change(key: str, sent: Json, taken: Json, sent_by_old: bool) -> str:
    old, new = (sent, taken) if sent_by_old else (taken, sent)
    return f"{new.get(key, 'not there')}, was {old.get(key, 'not there')}"
