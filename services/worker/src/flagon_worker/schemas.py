"""JSON in and out of the jobs API."""

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StrictFloat,
    StrictInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from .domain.encodings import ENCODINGS
from .domain.mapping import (
    ATTRIBUTE,
    CELL_CHARS_MAX,
    TARGETS,
    Decimals,
    check_defaults,
)

Column = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)
]
Default = (
    Annotated[str, StringConstraints(max_length=CELL_CHARS_MAX)]
    | StrictInt
    | StrictFloat
)
_TARGETS_MAX = 100


def _is_target(name: str) -> bool:
    return name in TARGETS or bool(ATTRIBUTE.match(name))


class ImportMapping(BaseModel, extra="forbid"):
    """How the columns of a file become products."""

    mapping: dict[str, Column] = Field(max_length=_TARGETS_MAX)
    """The file's column for each target: `sku`, `name`, `price`, `attributes.<name>` …"""
    defaults: dict[str, Default] = Field(default_factory=dict, max_length=_TARGETS_MAX)
    """What a target is where its cell is empty or no column is mapped to it."""
    encoding: str | None = None
    """The file's encoding, when it is not found rightly."""
    delimiter: Literal[",", ";", "\t", "|"] | None = None
    """The file's delimiter, when it is not found rightly."""
    decimals: Decimals = "auto"
    """The decimal sign of `price`, when it is not found rightly."""

    @field_validator("mapping", "defaults")
    @classmethod
    def _known_targets(cls, given: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(name for name in given if not _is_target(name))
        if unknown:
            message = (
                f"unknown target {unknown[0][:80]!r}; known are "
                f"{', '.join(TARGETS)} and attributes.<name>"
            )
            raise ValueError(message)
        return given

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, given: str | None) -> str | None:
        if given is None:
            return None
        name = given.lower()
        if name not in {*ENCODINGS, "utf-16"}:
            known = ", ".join(["utf-16", *ENCODINGS])
            message = f"unknown encoding; known are {known}"
            raise ValueError(message)
        return name

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for needed in ("sku", "name"):
            if needed not in self.mapping:
                message = f"map a column to {needed}"
                raise ValueError(message)
        if "sku" in self.defaults:
            message = "a SKU cannot have a default"
            raise ValueError(message)
        for given in (self.mapping, self.defaults):
            if "price" in given and "price_minor" in given:
                message = "give price or price_minor, not both"
                raise ValueError(message)
        problems = check_defaults(self.defaults)
        if problems:
            raise ValueError("; ".join(problems))
        return self


class ImportParams(ImportMapping):
    """Parameters of an `import` job."""

    mapping: dict[str, Column] = Field(default_factory=dict, max_length=_TARGETS_MAX)
    """The file's column for each target; may be left out where a profile is named."""
    dry_run: bool = False
    """Read and check every row, and change nothing."""
    profile: UUID | None = None
    """An import profile of the caller: what is not given here is taken from it."""


class ExportParams(BaseModel, extra="forbid"):
    """Parameters of an `export` job: which products, as in the catalog's list, and how."""

    format: Literal["csv", "ndjson", "xml", "xlsx"] = "csv"
    gzip: bool = False
    """Whether the file is compressed; a workbook is anyway."""
    q: str | None = Field(default=None, max_length=200)
    """Words to search for."""
    category: str | None = Field(default=None, max_length=64)
    tag: list[Annotated[str, StringConstraints(max_length=64)]] = Field(
        default_factory=list, max_length=20
    )
    attribute: list[Annotated[str, StringConstraints(max_length=300)]] = Field(
        default_factory=list, max_length=20
    )
    """`name:value`."""
    status: Literal["draft", "active", "archived", "any"] = "active"
    sku: str | None = Field(default=None, max_length=64)
    currency: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    price_minor_min: int | None = Field(default=None, ge=0)
    price_minor_max: int | None = Field(default=None, ge=0)
    in_stock: bool | None = None

    @model_validator(mode="after")
    def _compressed_once(self) -> "ExportParams":
        if self.gzip and self.format == "xlsx":
            message = "a workbook is compressed already"
            raise ValueError(message)
        return self


class ReportParams(BaseModel, extra="forbid"):
    """Parameters of a `report` job."""

    hours: int = Field(default=24, ge=1, le=168)
    """Of how many hours before it was handed in it tells what changed."""


class ReindexParams(BaseModel, extra="forbid"):
    """Parameters of a `reindex` job: none."""


class ProbeParams(BaseModel, extra="forbid"):
    """Parameters of a `probe` job."""

    seconds: float = Field(default=0, ge=0, le=60)
    """How long it does nothing."""
    stubborn: bool = False
    """Ignore that it is to be cancelled or handed back."""
    crash: bool = False
    """Take the process down in which it runs."""


KindName = Literal["import", "export", "report", "reindex", "probe"]

PARAMS: dict[str, type[BaseModel]] = {
    "import": ImportParams,
    "export": ExportParams,
    "report": ReportParams,
    "reindex": ReindexParams,
    "probe": ProbeParams,
}
"""The parameters of each kind."""


SUBMISSION: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["kind"],
                "additionalProperties": False,
                "properties": {
                    "kind": {"type": "string", "enum": list(PARAMS)},
                    "params": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "description": "The parameters of the kind, as JSON.",
                        "contentSchema": {
                            "anyOf": [
                                {"$ref": f"#/components/schemas/{model.__name__}"}
                                for model in PARAMS.values()
                            ]
                        },
                    },
                    "file": {
                        "type": "string",
                        "contentMediaType": "application/octet-stream",
                        "description": "CSV or NDJSON, where the kind takes a file.",
                    },
                },
            }
        }
    },
}
"""The body of `POST /api/v1/jobs`, which is no JSON, for the OpenAPI document."""


def param_schemas() -> dict[str, Any]:
    """Return the JSON Schemas of all parameters by name, for the OpenAPI document."""
    return {model.__name__: model.model_json_schema() for model in PARAMS.values()}


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the parameters of a query that a view reads itself, for OpenAPI."""
    properties = model.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


class Progress(BaseModel):
    """How far a job is."""

    done: int
    total: int | None
    unit: str
    message: str


class Artefact(BaseModel):
    """A file that a job made."""

    name: str
    url: str


class Upload(BaseModel):
    """The file that came with a job."""

    name: str
    bytes: int
    sha256: str


class JobView(BaseModel):
    """A job as the API shows it."""

    id: UUID
    kind: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: Progress
    result: dict[str, Any] | None
    error: str | None
    dead: Literal["poison", "exhausted"] | None
    """Why a failed job is a dead letter: it takes its workers down, or what it needs
    stayed away too long. Null where it failed for what it is."""
    attempts: int
    log_lines: int
    """Lines of its log that are kept."""
    cancel_requested: bool
    artefacts: list[Artefact]
    params: dict[str, Any]
    upload: Upload | None
    owner: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    version: int


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    items: list[JobView]
    next_cursor: str | None


def _empty_is_none(given: object) -> object:
    return None if given == "" else given


class JobQuery(BaseModel, extra="forbid"):
    """Query of `GET /api/v1/jobs`."""

    state: Annotated[
        Literal["queued", "running", "succeeded", "failed", "cancelled"] | None,
        BeforeValidator(_empty_is_none),
    ] = None
    kind: Annotated[KindName | None, BeforeValidator(_empty_is_none)] = None
    limit: int = Field(default=20, ge=1, le=100)
    cursor: str | None = Field(default=None, max_length=500)
