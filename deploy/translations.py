"""Collect the texts of auth and web, keep what was translated, compile it.

`make translations` runs it; with `check` nothing is written: what is missing or left over
is named, and fails. Run time needs none of this: the standard library reads the compiled
catalogs, browsers get theirs as scripts, and how a language writes numbers and times is
taken out of CLDR into small files here.
"""

import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from babel import Locale
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po, write_po

SERVICES = Path(__file__).parents[1] / "services"
METHODS = [("templates/**.*", "jinja2"), ("**.py", "python")]
SCRIPTS = [("static/js/**.js", "javascript")]
OPTIONS = {"templates/**.*": {"trimmed": "true", "silent": "false"}}
KEYWORDS = {
    "_": None,
    "N_": None,
    "gettext": None,
    "ngettext": (1, 2),
    "LazyText": None,
}
# A date of the day would make every run a change.
_WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def packages() -> dict[str, Path]:
    """Return the packages that have texts, by service."""
    found = sorted(SERVICES.glob("*/src/*/locale"))
    return {folder.parents[2].name: folder.parent for folder in found}


def languages(service: str) -> list[str]:
    """Return the languages that a service is translated into."""
    folders = (packages()[service] / "locale").glob("*/LC_MESSAGES")
    return sorted(folder.parent.name for folder in folders)


def extracted(service: str, language: str) -> Catalog:
    """Return the texts of the source, none of them translated."""
    catalog = _empty(service, language)
    for message, comments in _texts(service, METHODS + SCRIPTS):
        catalog.add(message, auto_comments=comments)
    return catalog


def translated(service: str, language: str) -> Catalog:
    """Return what was translated so far."""
    with _file(service, language, "po").open("rb") as file:
        return read_po(file, locale=language)


def compiled(service: str, language: str) -> Catalog:
    """Return what a running service reads."""
    with _file(service, language, "mo").open("rb") as file:
        return read_mo(file)


def strings(catalog: Catalog) -> dict[object, object]:
    """Return every text with its translation."""
    return {
        _plain(message.id): _plain(message.string) for message in catalog if message.id
    }


def update(service: str, language: str) -> None:
    """Write all files anew; a text that is gone stays as a comment until `tidy`."""
    known = translated(service, language)
    left = {
        **strings(known),
        **{_plain(m.id): _plain(m.string) for m in known.obsolete.values()},
    }
    catalog = extracted(service, language)
    for message in catalog:
        if _plain(message.id) in left:
            message.string = left.pop(_plain(message.id))
    if "tidy" not in sys.argv:
        for text, translation in left.items():
            if _is_translated(translation):
                spare = _empty(service, language)
                catalog.obsolete[text] = spare.add(text, translation)
    for kind, write, options in (
        ("po", write_po, {"no_location": True, "sort_output": True, "width": 88}),
        ("mo", write_mo, {}),
    ):
        buffer = io.BytesIO()
        write(buffer, catalog, **options)
        _file(service, language, kind).write_bytes(buffer.getvalue())
    for path, content in made(service, language).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


def made(service: str, language: str) -> dict[Path, str]:
    """Return the other files of a language, for services with scripts: path, content."""
    package = packages()[service]
    wanted = {_plain(text) for text, _comments in _texts(service, SCRIPTS)}
    if not wanted:
        return {}
    known = strings(translated(service, language))
    words = {
        text[0] if isinstance(text, tuple) else text: known[text]
        for text in sorted(wanted & known.keys(), key=str)
        if _is_translated(known[text])
    }
    files = {}
    # English is the source: it has formats, and no words.
    for code, content in (("en", {}), (language, words)):
        script = json.dumps(content, ensure_ascii=False, indent=1)
        files[package / f"static/js/words.{code}.js"] = (
            f"// Made by `make translations`.\nexport default {script};\n"
        )
        told = json.dumps(formats(code), ensure_ascii=False, indent=1)
        files[package / "locale" / code / "formats.json"] = told + "\n"
    return files


def formats(language: str) -> dict[str, object]:
    """Return how a language writes numbers, money and months."""
    locale = Locale.parse(language)
    symbols = {
        code: symbol
        for code, symbol in sorted(locale.currency_symbols.items())
        if symbol != code and len(code) == 3  # noqa: PLR2004 (ISO 4217)
    }
    return {
        "decimal": locale.number_symbols["latn"]["decimal"],
        "group": locale.number_symbols["latn"]["group"],
        "symbol_first": locale.currency_formats["standard"].pattern.startswith("¤"),
        "symbols": symbols,
        "months": list(locale.months["format"]["abbreviated"].values()),
    }


def complaints(service: str, language: str) -> list[str]:
    """Return what is wrong with the files of a language."""
    wanted = strings(extracted(service, language))
    catalog = translated(service, language)
    known = strings(catalog)
    told = [f"not collected yet: {text!r}" for text in wanted.keys() - known.keys()]
    told += [f"not in the source: {text!r}" for text in known.keys() - wanted.keys()]
    told += [
        f"not translated: {text!r}"
        for text, translation in known.items()
        if not _is_translated(translation)
    ]
    told += [
        f"not sure: {message.id!r}"
        for message in catalog
        if message.id and message.fuzzy
    ]
    told += [
        f"placeholders differ: {text!r}: {error}"
        for message in catalog
        if message.id
        for text in [message.id]
        for error in message.check()
    ]
    usable = {text: done for text, done in known.items() if _is_translated(done)}
    if strings(compiled(service, language)) != usable:
        told.append("the .mo is not made of the .po: run make translations")
    told += [
        f"{path.name} is old: run make translations"
        for path, content in made(service, language).items()
        if not path.is_file() or path.read_text() != content
    ]
    return told


def _texts(service: str, methods: list[tuple[str, str]]) -> list[tuple]:
    """Return pairs of (text, comments of the one who wrote it)."""
    found = extract_from_dir(
        packages()[service],
        methods,
        OPTIONS,
        keywords=KEYWORDS,
        comment_tags=("Translators:",),
    )
    return [(message, comments) for _file, _line, message, comments, _context in found]


def _plain(text: object) -> object:
    return tuple(text) if isinstance(text, list) else text


def _is_translated(translation: object) -> bool:
    return all(translation) if isinstance(translation, tuple) else bool(translation)


def _empty(service: str, language: str) -> Catalog:
    return Catalog(
        locale=language,
        project=f"flagon-{service}",
        version="1",
        copyright_holder="Flagon",
        header_comment=f"# The texts of {service}."
        " Lines of `msgstr` are for people to write.",
        language_team="Flagon",
        last_translator="Flagon",
        msgid_bugs_address="-",
        creation_date=_WHEN,
        revision_date=_WHEN,
        fuzzy=False,
    )


def _file(service: str, language: str, kind: str) -> Path:
    folder = packages()[service] / "locale" / language / "LC_MESSAGES"
    return folder / f"messages.{kind}"


if __name__ == "__main__":
    failed = False
    for name in packages():
        for code in languages(name):
            if "check" not in sys.argv:
                update(name, code)
            for complaint in complaints(name, code):
                failed = True
                print(f"{name}: {code}: {complaint}")
    sys.exit(failed)
