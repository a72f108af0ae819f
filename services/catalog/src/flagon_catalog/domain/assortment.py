"""Make believable products out of lists of words, always the same ones."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from random import Random
from typing import Any

from sqlalchemy.orm import Session

from .categories import CategorySlugTaken, create_category, lock_category_ids

Words = Mapping[str, Any]
"""Values to choose from, by name: a list, or a range `{"from", "to", "step"}`. A text may
name others in braces."""

_STATUSES = (("active", 94), ("draft", 3), ("archived", 3))
_CURRENCIES = (("EUR", 91), ("CHF", 4), ("GBP", 3), ("USD", 2))
_ENDINGS = (99, 95, 90, 50, 0)
"""What the cents of a price are."""
_SOLD_OUT = 0.08
_TAGS_MOST = 3

_NAMED = re.compile(r"\{(\w+)\}")
_FIRST_LETTER = re.compile(r"[^\W\d_]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[*]*[aeiouAEIOU])")


class Assortment:
    """An endless row of products; the words and a seed decide every one of them."""

    def __init__(self, data: Mapping[str, Any], seed: int) -> None:
        """Take the words.

        :param data: as in `assortment.json`.
        """
        self._seed = seed
        self._words: Words = data["words"]
        self._kinds = [
            (department, kind, department["weight"] * kind.get("weight", 1))
            for department in data["departments"]
            for kind in _balanced(department["kinds"])
        ]
        self._sums = list(accumulate(weight for *_, weight in self._kinds))

    def products(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield the first products, each with all fields that a bulk upsert takes."""
        return (self.product(number) for number in range(1, count + 1))

    def product(self, number: int) -> dict[str, Any]:
        """Return one product; it does not depend on how many there are.

        :param number: 1 for the first.
        """
        dice = _Dice(f"{self._seed}:{number}")
        department, kind, _ = self._kinds[dice.place(self._sums)]
        story = _Story(
            dice,
            {
                **self._words,
                **department["words"],
                **kind.get("words", {}),
                "noun": [kind["noun"]],
            },
        )
        name = story.sentence(dice.one(kind.get("names", department["names"])))
        parts = kind.get("descriptions", department["descriptions"])
        told = parts[: dice.below(len(parts)) + 1]
        names = [*department["attributes"], *kind.get("attributes", ())]
        return {
            "sku": f"seed-{number:06d}",
            "name": name,
            "description": " ".join(story.sentence(dice.one(part)) for part in told),
            "price_minor": _price(dice, *kind["price"]),
            "currency": dice.weighed(_CURRENCIES),
            "status": dice.weighed(_STATUSES),
            "stock": 0 if dice.share() < _SOLD_OUT else 1 + int(240 * dice.low()),
            "category": kind["category"],
            "tags": sorted(
                {
                    dice.one(department["tags"])
                    for _ in range(dice.below(_TAGS_MOST + 1))
                }
            ),
            "attributes": {name: story.value(name) for name in names},
        }


def _balanced(kinds: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield kinds whose weights add up to 1, so that a department weighs what it says."""
    whole = sum(kind.get("weight", 1) for kind in kinds)
    for kind in kinds:
        yield {**kind, "weight": kind.get("weight", 1) / whole}


def _price(dice: "_Dice", least: int, most: int) -> int:
    """Return a price in minor units: low ones are more frequent than high ones."""
    whole = int(least + (most - least) * dice.low()) // 100
    cents: int = dice.one(_ENDINGS)
    return whole * 100 + cents


class _Dice:
    """Chance that is the same on every machine and with every Python.

    Of `Random` only `random` promises that, and of floats only plain arithmetic.
    """

    def __init__(self, seed: str) -> None:
        self.share = Random(seed).random  # noqa: S311 (no secret is made of it)

    def below(self, most: int) -> int:
        return int(self.share() * most)

    def low(self) -> float:
        """Return a number from 0 to 1, most often a small one."""
        return self.share() * self.share()

    def one(self, choices: Sequence[Any]) -> Any:  # noqa: ANN401 (words are any JSON)
        return choices[self.below(len(choices))]

    def place(self, sums: Sequence[float]) -> int:
        """Return an index, as often as its weight says.

        :param sums: of the weights up to each.
        """
        point = self.share() * sums[-1]
        return next((at for at, top in enumerate(sums) if point < top), len(sums) - 1)

    def weighed(self, choices: Sequence[tuple[str, int]]) -> str:
        return choices[self.place(list(accumulate(weight for _, weight in choices)))][0]


class _Story:
    """The words that were chosen for one product: each is the same wherever it is named."""

    def __init__(self, dice: _Dice, words: Words) -> None:
        self._dice = dice
        self._words = words
        self._chosen: dict[str, Any] = {}

    def value(self, name: str) -> Any:  # noqa: ANN401 (words are any JSON)
        """Return the word of this name, which may be any JSON value."""
        if name not in self._chosen:
            self._chosen[name] = self._choose(self._words[name])
        return self._chosen[name]

    def _choose(self, choices: Any) -> Any:  # noqa: ANN401 (words are any JSON)
        if isinstance(choices, dict):
            steps = (choices["to"] - choices["from"]) // choices["step"] + 1
            return choices["from"] + choices["step"] * self._dice.below(steps)
        chosen = self._dice.one(choices)
        return self._filled(chosen) if isinstance(chosen, str) else chosen

    def _filled(self, template: str) -> str:
        return _NAMED.sub(lambda named: str(self.value(named[1])), template)

    def sentence(self, template: str) -> str:
        """Return a template with its words, as a sentence begins."""
        text = _ARTICLE.sub(r"\1n ", self._filled(template))
        return _FIRST_LETTER.sub(lambda first: first[0].upper(), text, count=1)


def plant(session: Session, tree: Mapping[str, Any]) -> None:
    """Create those categories of a tree that are missing; others stay where they are.

    :param tree: by slug: the `name`, and a tree of what is `in` it.
    :raises CategoryTooDeep: one that exists was moved too far down for what is in it.
    """
    wanted = list(_flat(tree))
    known = lock_category_ids(session, [slug for slug, *_ in wanted])
    for slug, name, parent in wanted:
        if slug not in known:
            # Somebody else has made it meanwhile, or it is there now.
            with suppress(CategorySlugTaken):
                create_category(
                    session, name=name, slug=slug, description="", parent=parent
                )


def _flat(
    tree: Mapping[str, Any], parent: str | None = None
) -> Iterator[tuple[str, str, str | None]]:
    """Yield slug, name and parent of each category, a parent before what is in it."""
    for slug, category in tree.items():
        yield slug, category["name"], parent
        yield from _flat(category.get("in", {}), slug)
