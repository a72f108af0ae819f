import pytest

PAGE = "/back-office/dead-letters"


@pytest.fixture
def dead_job(platform, a_job):
    """Make a dead letter."""

    def make(**members):
        return platform.add_job(
            a_job(
                "failed", **{"dead": "poison", "error": "It took 3 workers.", **members}
            )
        )

    return make


class TestLetters:
    def test_lists_them_with_the_reason(self, operator, dead_job, platform, a_job):
        dead, alive = dead_job(), platform.add_job(a_job("failed"))

        text = operator.get(PAGE).text

        assert f'href="{PAGE}/{dead["id"]}"' in text
        assert "It took 3 workers." in text
        assert alive["id"] not in text

    def test_are_filtered_by_kind(self, operator, dead_job):
        one, other = dead_job(), dead_job(kind="export", upload=None)

        text = operator.get(f"{PAGE}?kind=export").text

        assert other["id"] in text
        assert one["id"] not in text
        assert "Replay all of the kind export" in text

    def test_go_on_page_by_page(self, operator, dead_job):
        letters = [dead_job(kind="export") for _ in range(21)]

        text = operator.get(f"{PAGE}?kind=export").text
        assert letters[20]["id"] not in text
        assert f"{PAGE}?kind=export&amp;after=20" in text
        assert letters[20]["id"] in operator.get(f"{PAGE}?kind=export&after=20").text

    def test_says_when_there_are_none(self, operator):
        text = operator.get(PAGE).text

        assert "No dead letters" in text
        assert "Replay all" not in text
        assert "None of this kind" in operator.get(f"{PAGE}?kind=probe").text


class TestPermissions:
    @pytest.mark.parametrize("role", ["customer", "merchandiser"])
    def test_are_the_operators(self, browser, platform, dead_job, role):
        job = dead_job()
        platform.role = role
        browser.sign_in(platform)

        assert "Dead letters" not in browser.get("/jobs").text
        for path in (PAGE, f"{PAGE}/{job['id']}"):
            assert browser.get(path).status_code == 403
        for step in ("replay", "discard"):
            answer = browser.submit(f"{PAGE}/{job['id']}/{step}", etag='"v3"')
            assert answer.status_code == 403
        assert browser.submit(f"{PAGE}/replay").status_code == 403
        assert job["dead"] == "poison"

    def test_strangers_are_sent_to_the_sign_in(self, browser):
        assert browser.get(PAGE).location == f"/sign-in?next={PAGE}"


class TestLetter:
    def test_shows_what_is_needed_to_judge_it(self, operator, dead_job, platform):
        platform.attempts.append(
            {
                "number": 3,
                "started_at": "2026-01-02T03:04:06Z",
                "worker": "worker-a",
                "outcome": "crashed",
                "error": "The worker was killed.",
            }
        )
        platform.lines.append(
            {"number": 7, "at": "2026-01-02T03:04:06Z", "text": "Row 4711"}
        )
        job = dead_job(params={"mapping": {"sku": "Größe"}})

        text = operator.get(f"{PAGE}/{job['id']}").text

        for words in (
            "It took down every worker that tried it.",
            "It took 3 workers.",
            "The worker was killed.",
            "Row 4711",
            "Größe",
            "books.csv",
            "9\N{NO-BREAK SPACE}B",
            job["owner"],
        ):
            assert words in text

    def test_says_what_a_replay_will_do(self, operator, dead_job):
        job = dead_job(dead="exhausted")

        assert "goes on where it stopped" in operator.get(f"{PAGE}/{job['id']}").text

    def test_that_is_none_is_a_404(self, operator, platform, a_job):
        job = platform.add_job(a_job("failed"))

        assert operator.get(f"{PAGE}/{job['id']}").status_code == 404


class TestReplayLetter:
    def test_queues_it_again(self, operator, dead_job):
        job = dead_job()

        answer = operator.submit(f"{PAGE}/{job['id']}/replay")

        assert answer.location == f"/jobs/{job['id']}"
        assert job["state"] == "queued"

    def test_says_when_somebody_was_faster(self, operator, dead_job):
        job = dead_job()
        job.update(dead=None, state="queued")

        answer = operator.submit(f"{PAGE}/{job['id']}/replay")

        assert answer.location == PAGE
        assert "somebody was faster" in operator.get(PAGE).text


class TestReplayLetters:
    def test_replays_one_kind(self, operator, dead_job):
        one, other = dead_job(), dead_job(kind="export")

        answer = operator.submit(f"{PAGE}/replay", kind="export")

        assert answer.location == f"{PAGE}?kind=export"
        assert (one["dead"], other["dead"]) == ("poison", None)
        assert "1 queued again." in operator.get(PAGE).text

    def test_says_how_many_are_left(self, operator, dead_job):
        for _ in range(503):
            dead_job()

        operator.submit(f"{PAGE}/replay", kind="")

        text = operator.get(PAGE).text
        assert "500 queued again. 3 are left" in text


class TestDiscardLetter:
    def test_forgets_what_the_person_saw(self, operator, dead_job, platform):
        job = dead_job()
        text = operator.get(f"{PAGE}/{job['id']}").text
        assert 'name="etag" value="&#34;v3&#34;"' in text

        answer = operator.submit(f"{PAGE}/{job['id']}/discard", etag='"v3"')

        assert answer.location == PAGE
        assert platform.jobs == {}

    def test_leaves_what_changed_meanwhile(self, operator, dead_job, platform):
        job = dead_job(version=4)

        operator.submit(f"{PAGE}/{job['id']}/discard", etag='"v3"')

        assert job["id"] in platform.jobs
        assert "It changed since you looked" in operator.get(PAGE).text

    def test_needs_the_tag(self, operator, dead_job, platform):
        job = dead_job()

        assert operator.submit(f"{PAGE}/{job['id']}/discard").status_code == 400
        assert job["id"] in platform.jobs
