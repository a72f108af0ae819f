import log_events


class TestPage:
    def test_is_what_the_code_says(self):
        text = log_events.PAGE.read_text()

        assert log_events.page(text) == text

    def test_says_what_each_line_means(self):
        said = log_events.meanings(log_events.PAGE.read_text())

        assert said.keys() == log_events.found().keys()
        assert log_events.UNSAID not in said.values()

    def test_asks_for_the_meaning_of_a_new_line(self, monkeypatch):
        text = log_events.PAGE.read_text()
        new = log_events.Line({"info"}, {"web"}, {"`a`"})
        monkeypatch.setattr(log_events, "found", lambda: {"new_line": new})

        assert log_events.meanings(log_events.page(text)) == {
            "new_line": log_events.UNSAID
        }


class TestFound:
    def test_are_lines_of_every_service(self):
        writers = {
            writer for line in log_events.found().values() for writer in line.writers
        }

        assert writers == {"all", "auth", "catalog", "realtime", "web", "worker"}

    def test_are_named_as_constants(self):
        """What is counted and searched for must not be a sentence with values in it."""
        assert all(event.isidentifier() for event in log_events.found())

    def test_have_one_level_each_unless_it_depends_on_the_outcome(self):
        several = {
            event for event, line in log_events.found().items() if len(line.levels) > 1
        }

        assert several == {"presence_unreachable", "uwsgi"}
