"""Collect the texts of auth, keep what was translated, compile it: `make translations`.

With `check` nothing is written: what is missing or left over is named, and fails.
Run time needs none of this: the standard library reads the compiled catalogs.
"""

import io
import sys
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po, write_po

PACKAGE = Path(__file__).parents[1] / "services/auth/src/flagon_auth"
METHODS = [("templates/**.*", "jinja2"), ("**.py", "python")]
OPTIONS = {"templates/**.*": {"trimmed": "true", "silent": "false"}}
KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2), "LazyText": None}
# A date of the day would make every run a change.
_WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def extracted(language: str) -> Catalog:
    """Return the texts of the source, none of them translated."""
    catalog = _empty(language)
    found = extract_from_dir(
        PACKAGE, METHODS, OPTIONS, keywords=KEYWORDS, comment_tags=("Translators:",)
    )
    for _file, _line, message, comments, _context in found:
        catalog.add(message, auto_comments=comments)
    return catalog


def translated(language: str) -> Catalog:
    """Return what was translated so far."""
    with _file(language, "po").open("rb") as file:
        return read_po(file, locale=language)


def compiled(language: str) -> Catalog:
    """Return what a running service reads."""
    with _file(language, "mo").open("rb") as file:
        return read_mo(file)


def strings(catalog: Catalog) -> dict[object, object]:
    """Return every text with its translation."""
    return {
        _plain(message.id): _plain(message.string) for message in catalog if message.id
    }


def update(language: str) -> None:
    """Write both files anew; a text that is gone stays as a comment until `tidy`."""
    known = translated(language)
    left = {
        **strings(known),
        **{_plain(m.id): _plain(m.string) for m in known.obsolete.values()},
    }
    catalog = extracted(language)
    for message in catalog:
        if _plain(message.id) in left:
            message.string = left.pop(_plain(message.id))
    if "tidy" not in sys.argv:
        for text, translation in left.items():
            if _is_translated(translation):
                spare = _empty(language)
                catalog.obsolete[text] = spare.add(text, translation)
    for kind, write, options in (
        ("po", write_po, {"no_location": True, "sort_output": True, "width": 88}),
        ("mo", write_mo, {}),
    ):
        buffer = io.BytesIO()
        write(buffer, catalog, **options)
        _file(language, kind).write_bytes(buffer.getvalue())


def complaints(language: str) -> list[str]:
    """Return what is wrong with the files of a language."""
    wanted, known = strings(extracted(language)), strings(translated(language))
    told = [f"not collected yet: {text!r}" for text in wanted.keys() - known.keys()]
    told += [f"not in the source: {text!r}" for text in known.keys() - wanted.keys()]
    told += [
        f"not translated: {text!r}"
        for text, translation in known.items()
        if not _is_translated(translation)
    ]
    told += [
        f"placeholders differ: {text!r}: {error}"
        for message in translated(language)
        if message.id
        for text in [message.id]
        for error in message.check()
    ]
    usable = {text: made for text, made in known.items() if _is_translated(made)}
    if strings(compiled(language)) != usable:
        told.append("the .mo is not made of the .po: run make translations")
    return told


def _plain(text: object) -> object:
    return tuple(text) if isinstance(text, list) else text


def _is_translated(translation: object) -> bool:
    return all(translation) if isinstance(translation, tuple) else bool(translation)


def _empty(language: str) -> Catalog:
    return Catalog(
        locale=language,
        project="flagon-auth",
        version="1",
        copyright_holder="Flagon",
        header_comment="# The texts of auth. Lines of `msgstr` are for people to write.",
        language_team="Flagon",
        last_translator="Flagon",
        msgid_bugs_address="-",
        creation_date=_WHEN,
        revision_date=_WHEN,
        fuzzy=False,
    )


def _file(language: str, kind: str) -> Path:
    return PACKAGE / "locale" / language / "LC_MESSAGES" / f"messages.{kind}"


if __name__ == "__main__":
    for code in sorted(path.name for path in (PACKAGE / "locale").iterdir()):
        if "check" not in sys.argv:
            update(code)
        for complaint in (told := complaints(code)):
            print(f"{code}: {complaint}")
        if told:
            sys.exit(1)
