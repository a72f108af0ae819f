"""Documents: read, weighed, checked and, where clients may name them by hash, kept."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    parse,
    specified_rules,
    validate,
)

from flagon_catalog.clients import PersistedDocuments
from flagon_chassis.errors import Forbidden, Invalid, NotFound

from .weight import Limits, QueryTooDeep, QueryTooLarge, Weight, check, weigh

_REMEMBERED_MAX = 32
_REMEMBERED_TOKENS_MAX = 500
"""A token takes about a kilobyte: together, what is remembered stays below 16 MB."""
_ERRORS_MAX = 10
_COMMENTS_MAX = 200


class QueryUnreadable(Invalid):
    """The document is no GraphQL."""


class QueryInvalid(Invalid):
    """The document does not fit the schema."""


class QueryNotListed(Forbidden):
    """Only the documents that come with the service are carried out."""


class PersistedQueryNotFound(NotFound):
    """No document with this hash is known."""


class PersistedQueryMismatch(Invalid):
    """The hash is not that of the document."""


@dataclass(frozen=True)
class Document:
    """A document that fits the schema."""

    text: str
    ast: DocumentNode


def shipped() -> dict[str, str]:
    """Return the documents in `queries/` by hash, without the last line's end."""
    folder = files("flagon_catalog") / "queries"
    texts = [
        item.read_text().rstrip("\n")
        for item in folder.iterdir()
        if item.name.endswith(".graphql")
    ]
    return {digest(text): text for text in texts}


def digest(text: str) -> str:
    """Return the SHA-256 of a document, as clients name it."""
    return sha256(text.encode()).hexdigest()


class Documents:
    """All that is asked about documents before they are carried out.

    :param introspection: whether clients may ask for the schema.
    :param only_shipped: whether no documents are known but those of the service.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        persisted: PersistedDocuments,
        *,
        limits: Limits,
        tokens_max: int,
        bytes_max: int,
        introspection: bool,
        only_shipped: bool,
    ) -> None:
        self._schema = schema
        self._persisted = persisted
        self._limits = limits
        self._tokens_max = tokens_max
        self._bytes_max = bytes_max
        self.introspection = introspection
        self._only_shipped = only_shipped
        self._shipped = shipped()
        self._known: OrderedDict[str, Document] = OrderedDict()

    def find(
        self,
        text: str | None,
        named: str | None,
        variables: Mapping[str, Any],
        operation: str | None,
    ) -> tuple[Document, Weight]:
        """Return a document that may be carried out, and what it weighs.

        One that comes with its hash is kept, so that the hash alone does the next time.

        :param named: the hash by which the client names it.
        :param operation: the name of the operation that is meant.
        :raises QueryNotListed: it is not one of the service's own.
        :raises PersistedQueryNotFound: the hash is not known; send the text.
        :raises PersistedQueryMismatch: the hash is another document's.
        :raises QueryUnreadable: it is no GraphQL.
        :raises QueryTooLarge: it has too many words, fields or aliases.
        :raises QueryTooDeep: it has too many levels.
        :raises QueryTooCostly: it costs too much.
        :raises QueryInvalid: it does not fit the schema.
        """
        known = self._text(text, named)
        name = digest(known)
        document = self._known.get(name)
        try:
            ast = self._read(known) if document is None else document.ast
            chosen, whole = weigh(ast, variables, operation)
            # Before validation, whose work can grow much faster than the document.
            check(chosen, whole, self._limits)
            if document is None:
                self._check(ast)
        except RecursionError as error:
            raise self._too_deep() from error
        if document is None:
            document = Document(known, ast)
            self._remember(name, document)
        if text is not None and named is not None and name not in self._shipped:
            self._persisted.keep(name, text)
        return document, chosen

    def label(self, document: Document) -> str:
        """Return the name of a shipped document's operation, else `other`.

        Names that clients make up would be label values without end.
        """
        if digest(document.text) not in self._shipped:
            return "other"
        return next(
            node.name.value
            for node in document.ast.definitions
            if isinstance(node, OperationDefinitionNode) and node.name
        )

    def _text(self, text: str | None, named: str | None) -> str:
        if text is not None and len(text.encode()) > self._bytes_max:
            raise QueryTooLarge(
                f"A document has at most {self._bytes_max} bytes.",
                maximum=self._bytes_max,
            )
        if text is not None and named is not None and digest(text) != named:
            raise PersistedQueryMismatch("Send the SHA-256 of the very text.")
        name = named or digest(text or "")
        if name in self._shipped:
            return self._shipped[name]
        if self._only_shipped:
            raise QueryNotListed("This document is not among them.")
        if text is None:
            known = self._known.get(name)
            text = known.text if known else self._persisted.find(name)
        if text is None:
            raise PersistedQueryNotFound("Send the document with its hash.")
        return text

    def _read(self, text: str) -> DocumentNode:
        try:
            return parse(
                text,
                max_lexical_tokens=self._tokens_max,
                max_comments=_COMMENTS_MAX,
                # Without: `a {}`, which means nothing.
                allow_empty_selection_sets=False,
            )
        except GraphQLError as error:
            # The library has no names for its own limits.
            if "contains more than" in error.message:
                raise QueryTooLarge(
                    f"A document has at most {self._tokens_max} tokens and"
                    f" {_COMMENTS_MAX} comments.",
                    maximum=self._tokens_max,
                ) from error
            if "nested too deeply" in error.message:
                raise self._too_deep() from error
            raise QueryUnreadable(error.message, locations=_places(error)) from error

    def _too_deep(self) -> QueryTooDeep:
        most = self._limits.depth
        return QueryTooDeep(f"A query has at most {most} levels.", maximum=most)

    def _check(self, ast: DocumentNode) -> None:
        rules = list(specified_rules)
        if not self.introspection:
            rules.append(NoSchemaIntrospectionCustomRule)
        errors = validate(
            self._schema,
            ast,
            rules,
            max_errors=_ERRORS_MAX,
            # `Did you mean` would tell the schema name by name.
            hide_suggestions=not self.introspection,
        )
        if errors:
            raise QueryInvalid(
                errors[0].message,
                errors=[
                    {"detail": error.message, "locations": _places(error)}
                    for error in errors
                ],
            )

    def _remember(self, name: str, document: Document) -> None:
        if (document.ast.token_count or 0) > _REMEMBERED_TOKENS_MAX:
            return
        self._known[name] = document
        while len(self._known) > _REMEMBERED_MAX:
            # Another thread may have done it.
            self._known.popitem(last=False)


def _places(error: GraphQLError) -> list[dict[str, int]]:
    return [
        {"line": place.line, "column": place.column} for place in error.locations or ()
    ]
