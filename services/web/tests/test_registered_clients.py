import pytest

PAGE = "/back-office/clients"
NEW = f"{PAGE}/-/new"
WRITTEN = {
    "key": "0" * 32,
    "name": "Reading list",
    "token_endpoint_auth_method": "client_secret_basic",
    "grant_types": ["authorization_code", "refresh_token"],
    "scope": "openid  profile ",
    "redirect_uris": "https://app.example.com/a\r\nhttps://app.example.com/b\r\n",
    "post_logout_redirect_uris": "",
    "backchannel_logout_uri": " ",
    "id_token_signed_response_alg": "ES256",
    "dpop_bound_access_tokens": "y",
}


def page_of(client):
    return f"{PAGE}/{client['id']}"


def error_at(answer, place):
    _, mark, after = answer.text.partition(f'id="{place}-error"')
    assert mark, place
    return after.partition("</p>")[0]


class TestRegisteredClients:
    def test_lists_them_with_how_they_are(self, administrator, a_client):
        one = a_client()
        a_client(first_party=True, grant_types=["client_credentials"])
        a_client(name="", id="nameless", disabled=True)

        text = administrator.get(PAGE).text

        assert f'href="{page_of(one)}"' in text
        assert "<bdi>nameless</bdi>" in text
        assert "Sign people in, Stay signed in" in text
        assert "Act for itself" in text
        for words in ("Active", "Disabled", "Built in"):
            assert f">{words}<" in text


class TestPermissions:
    @pytest.mark.parametrize("role", ["customer", "merchandiser", "operator"])
    def test_are_the_administrators(self, browser, platform, a_client, role):
        found = a_client()
        before = dict(found)
        platform.role = role
        browser.sign_in(platform)

        assert f'href="{PAGE}"' not in browser.get("/back-office").text
        for path in (PAGE, NEW, page_of(found), f"{page_of(found)}/delete"):
            assert browser.get(path).status_code == 403
        for path in (NEW, page_of(found), f"{page_of(found)}/secret"):
            assert browser.submit(path, **WRITTEN, etag='"v1"').status_code == 403
        answer = browser.submit(f"{page_of(found)}/delete", etag='"v1"')
        assert answer.status_code == 403
        assert list(platform.clients.values()) == [before]
        assert platform.keys == []

    def test_only_to_read_show_no_buttons(self, browser, platform, a_client):
        platform.role = "reader"
        browser.sign_in(platform)
        page = page_of(a_client())

        text = browser.get(page).text

        assert "Reading list" in text
        assert f'action="{page}' not in text
        assert f"{page}/delete" not in text
        assert NEW not in browser.get(PAGE).text
        assert browser.get(NEW).status_code == 403


class TestCreateClient:
    def test_shows_the_secret_once(self, administrator, platform):
        assert 'value="refresh_token" checked' in administrator.get(NEW).text

        answer = administrator.submit(NEW, **WRITTEN)

        [made] = platform.clients.values()
        assert answer.status_code == 201
        assert "first-secret" in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        assert made["redirect_uris"] == [
            "https://app.example.com/a",
            "https://app.example.com/b",
        ]
        assert made["scope"] == "openid profile"
        assert made["backchannel_logout_uri"] is made["jwks"] is None
        assert made["dpop_bound_access_tokens"] is True
        for page in (PAGE, page_of(made), "/back-office"):
            assert "first-secret" not in administrator.get(page).text

    def test_without_a_secret_goes_on_to_its_page(self, administrator, platform):
        sent = {**WRITTEN, "token_endpoint_auth_method": "none"}

        answer = administrator.submit(NEW, **sent)

        [made] = platform.clients.values()
        assert answer.location == page_of(made)
        text = administrator.get(answer.location).text
        assert "The client Reading list is registered." in text
        assert "Not at all" in text
        assert "/secret" not in text

    def test_sent_twice_has_one_key(self, administrator, platform):
        for key in ("0", "0", "1"):
            administrator.submit(NEW, **{**WRITTEN, "key": key * 32})

        assert platform.keys[0] == platform.keys[1] != platform.keys[2]

    @pytest.mark.parametrize(
        ("change", "place", "words"),
        [
            ({"name": ""}, "name", "This field is required."),
            ({"grant_types": []}, "grant_types", "Choose at least one."),
            ({"grant_types": ["password"]}, "grant_types", "password"),
            (
                {"redirect_uris": "http://evil.example"},
                "redirect_uris",
                "must be https",
            ),
            ({"jwks": "["}, "jwks", "This is no JSON."),
            ({"jwks": "[]"}, "jwks", "Write an object"),
            ({"scope": "x" * 1001}, "scope", "1000 characters"),
        ],
    )
    def test_says_at_the_field_what_is_wrong(
        self, administrator, platform, change, place, words
    ):
        answer = administrator.submit(NEW, **{**WRITTEN, **change})

        assert answer.status_code == 422
        assert words in error_at(answer, place)
        assert platform.clients == {}

    def test_says_at_the_scopes_which_nobody_may_give(self, administrator, platform):
        answer = administrator.submit(NEW, **{**WRITTEN, "scope": "mails:send"})

        assert answer.status_code == 403
        assert "You have no mails:send." in error_at(answer, "scope")

    def test_says_on_top_what_is_about_no_field(self, administrator):
        answer = administrator.submit(NEW, **{**WRITTEN, "redirect_uris": ""})

        assert answer.status_code == 422
        assert "needs a redirect URI" in answer.text

    def test_keeps_what_was_written_while_auth_does_not_answer(
        self, administrator, platform
    ):
        platform.silent.add("/api/v1/clients")

        answer = administrator.submit(NEW, **WRITTEN)

        assert answer.status_code == 503
        assert "What you wrote is still here" in answer.text
        assert f'value="{WRITTEN["key"]}"' in answer.text


class TestChangeClient:
    def test_saves_it(self, administrator, a_client):
        keys = {"keys": [{"kty": "EC", "crv": "P-256"}]}
        found = a_client(token_endpoint_auth_method="private_key_jwt", jwks=keys)
        text = administrator.get(page_of(found)).text
        assert "&#34;P-256&#34;" in text
        assert 'name="etag" value="&#34;v1&#34;"' in text

        sent = {**WRITTEN, "name": "Other", "jwks": '{"keys": []}', "disabled": "y"}
        answer = administrator.submit(page_of(found), **sent, etag='"v1"')

        assert answer.location == page_of(found)
        assert (found["name"], found["disabled"]) == ("Other", True)
        assert found["jwks"] == {"keys": []}
        assert found["token_endpoint_auth_method"] == "private_key_jwt"

    def test_shows_what_somebody_else_wrote_meanwhile(self, administrator, a_client):
        found = a_client(version=2, name="Theirs", jwks={"keys": []}, disabled=True)

        answer = administrator.submit(page_of(found), **WRITTEN, etag='"v1"')

        assert answer.status_code == 409
        assert "Somebody changed this client" in answer.text
        for value in ("Theirs", "on", "{&#34;keys&#34;: []}", "RS256", "off"):
            assert f"is now <bdi>{value}</bdi>" in answer.text
        assert 'value="Reading list"' in answer.text
        assert 'name="etag" value="&#34;v2&#34;"' in answer.text
        assert found["name"] == "Theirs"

    def test_says_at_the_field_what_is_wrong(self, administrator, a_client):
        found = a_client()

        for change, place in (
            ({"name": ""}, "name"),
            ({"redirect_uris": "http://evil.example"}, "redirect_uris"),
        ):
            sent = {**WRITTEN, **change, "etag": '"v1"'}
            answer = administrator.submit(page_of(found), **sent)
            assert answer.status_code == 422
            assert error_at(answer, place)
        assert found["version"] == 1

    def test_needs_the_tag(self, administrator, a_client):
        found = a_client()

        assert administrator.submit(page_of(found), **WRITTEN).status_code == 400
        assert found["version"] == 1

    def test_keeps_what_was_written_while_auth_does_not_answer(
        self, administrator, platform, a_client
    ):
        found = a_client()
        platform.frozen = (503, "")

        sent = {**WRITTEN, "name": "Written", "etag": '"v1"'}
        answer = administrator.submit(page_of(found), **sent)

        assert answer.status_code == 503
        assert 'value="Written"' in answer.text

    def test_of_the_platform_itself_is_not_offered_and_refused(
        self, administrator, platform, a_client
    ):
        found = a_client(id="web", first_party=True)
        platform.frozen = (403, "Use the installation's clients file.")

        text = administrator.get(page_of(found)).text
        assert "changed where it is installed" in text
        assert f'action="{page_of(found)}' not in text
        answer = administrator.submit(page_of(found), **WRITTEN, etag='"v1"')
        assert answer.status_code == 403


class TestRotateClientSecret:
    def test_shows_the_new_one_once(self, administrator, platform, a_client):
        found = a_client()

        for _ in range(2):
            answer = administrator.submit(
                f"{page_of(found)}/secret", key="a" * 32, overlap_seconds="3600"
            )

        assert "second-secret" in answer.text
        assert "The one before works until" in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        assert found["overlap_seconds"] == 3600
        assert len(set(platform.keys)) == 1
        assert "second-secret" not in administrator.get(page_of(found)).text

    def test_may_end_the_one_that_leaked(self, administrator, a_client):
        found = a_client()

        answer = administrator.submit(
            f"{page_of(found)}/secret", key="a" * 32, overlap_seconds="0"
        )

        assert found["overlap_seconds"] == 0
        assert "works until" not in answer.text

    def test_of_no_known_length_makes_none(self, administrator, platform, a_client):
        found = a_client()

        answer = administrator.submit(
            f"{page_of(found)}/secret", key="a" * 32, overlap_seconds="-1"
        )

        assert answer.location == page_of(found)
        assert platform.keys == []


class TestDeleteClient:
    def test_asks_before(self, administrator, platform, a_client):
        found = a_client()

        text = administrator.get(f"{page_of(found)}/delete").text

        assert "Everything that it was given ends at once" in text
        assert 'name="etag" value="&#34;v1&#34;"' in text
        assert platform.clients

    def test_forgets_it(self, administrator, platform, a_client):
        answer = administrator.submit(f"{page_of(a_client())}/delete", etag='"v1"')

        assert answer.location == PAGE
        assert "The client is deleted." in administrator.get(PAGE).text
        assert platform.clients == {}

    def test_leaves_what_changed_meanwhile(self, administrator, platform, a_client):
        found = a_client(version=2)

        answer = administrator.submit(f"{page_of(found)}/delete", etag='"v1"')

        assert answer.location == page_of(found)
        assert "It changed since you looked" in administrator.get(answer.location).text
        assert platform.clients
