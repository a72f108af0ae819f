import pytest

from flagon_chassis.http import Refused
from flagon_web import forms
from flagon_web.forms import first_error


class Nothing(list):
    pass


class TestFirstError:
    def test_is_empty_when_all_is_well(self):
        assert first_error(Nothing()) == ""


class TestBlame:
    @pytest.mark.parametrize(
        "errors",
        [
            None,
            "x",
            {"pointer": "#/url"},
            [None, 1, "x"],
            [{}],
            [{"pointer": None, "detail": None}],
            [{"pointer": 7, "detail": ["<script>"]}],
            [{"pointer": "#/csrf_token/../_fields", "detail": "x"}],
            [{"pointer": "#/fields", "detail": "x"}],
        ],
    )
    def test_bears_any_answer(self, app, errors):
        problem = {"detail": "No.", "errors": errors}

        with app.test_request_context("/"):
            said = forms.blame(forms.Endpoint(), Refused("worker", 422, problem))

        assert isinstance(said, str)
        assert said or not errors

    def test_puts_each_error_at_its_field(self, app):
        problem = {
            "detail": "2 problems",
            "errors": [
                {"pointer": "#/url", "detail": "Value error, not there"},
                {"pointer": "#/event_types/3", "detail": "no"},
            ],
        }

        with app.test_request_context("/"):
            form = forms.Endpoint()
            said = forms.blame(form, Refused("worker", 422, problem))

        assert list(form.url.errors) == ["not there"]
        assert list(form.event_types.errors) == ["no"]
        assert said == "It was not saved. Look at the marked fields."
