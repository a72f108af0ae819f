"""The words of searches, brought up to date step by step, as worker's `reindex` asks."""

from dataclasses import asdict

from apiflask import APIBlueprint
from flask import Response

from flagon_catalog.domain import words
from flagon_catalog.schemas import ForgetStep, LearnStep, WordsView
from flagon_chassis import auth, web
from flagon_chassis.db import transaction

from . import WRITE

inside = APIBlueprint(
    "words", __name__, url_prefix="/internal/words", enable_openapi=False
)


@inside.post("/learn")
@auth.requires(WRITE)
@inside.input(LearnStep, arg_name="step")
def learn_words(step: LearnStep) -> Response:
    """Add the words of the next products; safe to repeat."""
    with transaction() as session:
        done = words.learn_some(session, **step.model_dump())
    return web.reply(WordsView, asdict(done))


@inside.post("/forget")
@auth.requires(WRITE)
@inside.input(ForgetStep, arg_name="step")
def forget_words(step: ForgetStep) -> Response:
    """Take out the next words that no product has; safe to repeat."""
    with transaction() as session:
        done = words.forget_some(session, after=step.after)
    return web.reply(WordsView, asdict(done))
