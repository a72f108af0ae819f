import pytest

PAGE = "/back-office/webhooks"
WRITTEN = {
    "key": "0" * 32,
    "url": "https://shop.example.com/hooks",
    "event_types": "market.flagon.product.*\r\nmarket.flagon.job.changed.v1\r\n",
    "description": "Search",
    "enabled": "y",
}


class TestWebhooks:
    def test_lists_them_with_how_they_do(self, operator, a_webhook):
        one = a_webhook()
        a_webhook(circuit="open", failures=5)
        a_webhook(circuit="half_open")
        a_webhook(enabled=False)

        text = operator.get(PAGE).text

        assert f'href="{PAGE}/{one["id"]}"' in text
        assert "market.flagon.product.*" in text
        for words in ("Well", "Failing", "Tried again", "Disabled"):
            assert f">{words}<" in text

    def test_go_on_page_by_page(self, operator, a_webhook):
        for _ in range(21):
            a_webhook()

        assert f"{PAGE}?after=20" in operator.get(PAGE).text

    def test_says_when_there_are_none(self, operator):
        assert "No webhooks yet" in operator.get(PAGE).text


class TestPermissions:
    @pytest.mark.parametrize("role", ["customer", "merchandiser"])
    def test_are_the_operators(self, browser, platform, a_webhook, a_delivery, role):
        found, sent = a_webhook(), a_delivery("dead")
        one = f"{PAGE}/{found['id']}"
        platform.role = role
        browser.sign_in(platform)

        for path in (PAGE, f"{PAGE}/new", one):
            assert browser.get(path).status_code == 403
        resend = f"/deliveries/{sent['id']}/resend"
        for path in (f"{PAGE}/new", one, f"{one}/rotate", f"{one}/test", one + resend):
            assert browser.submit(path, **WRITTEN).status_code == 403
        assert browser.submit(f"{one}/delete", etag='"v1"').status_code == 403
        assert list(platform.webhooks.values()) == [found]
        assert platform.deliveries == [sent]
        assert platform.keys == []


class TestCreateWebhook:
    def test_shows_the_secret_once(self, operator, platform):
        answer = operator.submit(f"{PAGE}/new", **WRITTEN)

        made = next(iter(platform.webhooks.values()))
        assert answer.status_code == 201
        assert "whsec_first" in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        assert made["event_types"] == [
            "market.flagon.product.*",
            "market.flagon.job.changed.v1",
        ]
        for page in (PAGE, f"{PAGE}/{made['id']}", "/back-office"):
            assert "whsec" not in operator.get(page).text

    def test_sent_twice_has_one_key(self, operator, platform):
        for _ in range(2):
            operator.submit(f"{PAGE}/new", **WRITTEN)
            platform.webhooks.clear()
        operator.submit(f"{PAGE}/new", **{**WRITTEN, "key": "1" * 32})

        assert platform.keys[0] == platform.keys[1] != platform.keys[2]

    @pytest.mark.parametrize(
        ("change", "place", "words"),
        [
            ({"url": "http://x"}, "url", "is not https"),
            ({"url": ""}, "url", "This field is required."),
            ({"event_types": "wrong"}, "event_types", "No such event"),
            ({"description": "x" * 201}, "description", "200 characters"),
        ],
    )
    def test_says_at_the_field_what_is_wrong(
        self, operator, platform, change, place, words
    ):
        answer = operator.submit(f"{PAGE}/new", **{**WRITTEN, **change})

        assert answer.status_code == 422
        _, mark, after = answer.text.partition(f'id="{place}-error"')
        assert mark
        assert words in after.partition("</p>")[0]
        assert platform.webhooks == {}

    def test_says_on_top_what_is_about_no_field(self, operator, a_webhook):
        a_webhook()
        a_webhook()

        answer = operator.submit(f"{PAGE}/new", **WRITTEN)

        assert answer.status_code == 409
        assert "no more may be" in answer.text

    def test_keeps_what_was_written_while_the_jobs_api_is_down(
        self, operator, platform
    ):
        platform.down.add("worker")

        answer = operator.submit(f"{PAGE}/new", **WRITTEN)

        assert answer.status_code == 503
        assert 'value="https://shop.example.com/hooks"' in answer.text
        assert f'value="{WRITTEN["key"]}"' in answer.text


class TestChangeWebhook:
    def test_saves_it(self, operator, a_webhook):
        found = a_webhook()
        text = operator.get(f"{PAGE}/{found['id']}").text
        assert 'name="etag" value="&#34;v1&#34;"' in text

        sent = {name: value for name, value in WRITTEN.items() if name != "enabled"}
        answer = operator.submit(f"{PAGE}/{found['id']}", **sent, etag='"v1"')

        assert answer.status_code == 303
        assert found["description"] == "Search"
        assert found["enabled"] is False

    def test_shows_what_somebody_else_wrote_meanwhile(self, operator, a_webhook):
        found = a_webhook(version=2, description="Theirs", enabled=False)

        answer = operator.submit(f"{PAGE}/{found['id']}", **WRITTEN, etag='"v1"')

        assert answer.status_code == 409
        assert "Somebody changed this webhook" in answer.text
        assert "is now <bdi>Theirs</bdi>" in answer.text
        assert "is now <bdi>off</bdi>" in answer.text
        assert 'value="Search"' in answer.text
        assert 'name="etag" value="&#34;v2&#34;"' in answer.text
        assert found["description"] == "Theirs"

    def test_says_at_the_field_what_is_wrong(self, operator, a_webhook):
        found = a_webhook()

        for url in ("http://x", ""):
            answer = operator.submit(
                f"{PAGE}/{found['id']}", **{**WRITTEN, "url": url}, etag='"v1"'
            )
            assert answer.status_code == 422
            assert 'id="url-error"' in answer.text

    def test_needs_the_tag(self, operator, a_webhook):
        found = a_webhook()

        answer = operator.submit(f"{PAGE}/{found['id']}", **WRITTEN)

        assert answer.status_code == 400
        assert found["version"] == 1


class TestRotateWebhook:
    def test_shows_the_new_secret(self, operator, a_webhook, platform):
        found = a_webhook()

        for _ in range(2):
            answer = operator.submit(f"{PAGE}/{found['id']}/rotate", key="a" * 32)

        assert "whsec_second" in answer.text
        assert "signs, too, until" in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        assert platform.keys == ["a" * 32] * 2


class TestDeliveries:
    def test_show_each_attempt(self, operator, a_webhook, a_delivery):
        found = a_webhook()
        a_delivery("dead", attempts=2)
        a_delivery("waiting")

        text = operator.get(f"{PAGE}/{found['id']}").text

        assert "2 attempts" in text
        assert "<strong>500</strong>" in text
        assert "42 ms" in text
        assert "Not tried yet" in text

    def test_are_filtered_and_paged(self, operator, a_webhook, a_delivery):
        page = f"{PAGE}/{a_webhook()['id']}"
        for _ in range(21):
            a_delivery("dead", event_type="market.flagon.dead.v1")
        a_delivery(event_type="market.flagon.other.v1")

        text = operator.get(f"{page}?state=dead").text

        assert "market.flagon.other.v1" not in text
        assert f"{page}?state=dead&amp;after=20" in text
        assert "market.flagon.other.v1" in operator.get(f"{page}?state=delivered").text
        assert "None fits the filter." in operator.get(f"{page}?state=waiting").text
        assert operator.get(f"{page}?state=%3Cscript%3E").status_code == 200

    def test_do_not_keep_the_webhook_from_being_shown(
        self, operator, a_webhook, platform
    ):
        platform.silent.add("/deliveries")

        answer = operator.get(f"{PAGE}/{a_webhook()['id']}")

        assert answer.status_code == 200
        assert "The deliveries cannot be shown right now" in answer.text

    def test_are_sent_again(self, operator, a_webhook, a_delivery):
        page, sent = f"{PAGE}/{a_webhook()['id']}", a_delivery("dead")
        assert ">Send again<" in operator.get(page).text

        answer = operator.submit(f"{page}/deliveries/{sent['id']}/resend")

        assert answer.location == page
        assert sent["state"] == "waiting"

    def test_that_are_gone_are_told(self, operator, a_webhook, a_delivery, platform):
        page, sent = f"{PAGE}/{a_webhook()['id']}", a_delivery()
        platform.deliveries.clear()

        operator.submit(f"{page}/deliveries/{sent['id']}/resend")

        assert "kept no more" in operator.get(page).text


class TestTestWebhook:
    def test_sends_one(self, operator, a_webhook):
        page = f"{PAGE}/{a_webhook()['id']}"

        answer = operator.submit(f"{page}/test")

        assert answer.location == page
        text = operator.get(page).text
        assert "A test is on its way" in text
        assert "market.flagon.webhook.test.v1" in text

    def test_says_why_not(self, operator, a_webhook):
        found = a_webhook(enabled=False)
        page = f"{PAGE}/{found['id']}"
        assert "Send a test" not in operator.get(page).text

        operator.submit(f"{page}/test")

        assert "Enable the webhook first." in operator.get(page).text


class TestDeleteWebhook:
    def test_forgets_it(self, operator, a_webhook, platform):
        found = a_webhook()

        answer = operator.submit(f"{PAGE}/{found['id']}/delete", etag='"v1"')

        assert answer.location == PAGE
        assert platform.webhooks == {}

    def test_leaves_what_changed_meanwhile(self, operator, a_webhook, platform):
        found = a_webhook(version=2)

        answer = operator.submit(f"{PAGE}/{found['id']}/delete", etag='"v1"')

        assert "It changed since you looked" in operator.get(answer.location).text
        assert platform.webhooks
