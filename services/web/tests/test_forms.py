from flagon_web.forms import first_error


class Nothing(list):
    pass


class TestFirstError:
    def test_is_empty_when_all_is_well(self):
        assert first_error(Nothing()) == ""
