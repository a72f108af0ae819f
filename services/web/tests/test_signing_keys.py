import pytest

PAGE = "/back-office/keys"


def a_key(kid, state, **members):
    made = {"kid": kid, "alg": "ES256", "state": state, "public_jwk": {}}
    times = {"created_at": "2026-01-01T00:00:00Z", "activated_at": None}
    return {**made, **times, "retire_at": None, **members}


@pytest.fixture
def keys(platform):
    platform.signing_keys += [
        a_key("old", "retired", retire_at="2026-01-02T00:00:00Z"),
        a_key("last", "retiring"),
        a_key("present", "active", activated_at="2026-01-03T00:00:00Z"),
        a_key("next", "pending"),
    ]
    return platform.signing_keys


class TestSigningKeys:
    def test_are_listed_newest_first_with_how_they_are(self, administrator, keys):
        text = administrator.get(PAGE).text

        places = [text.index(f">{one['kid']}</code>") for one in reversed(keys)]
        assert places == sorted(places)
        for words in ("Next", "Signs", "Checks what it signed", "Over"):
            assert f">{words}</span>" in text
        assert f"{PAGE}/last/drop" in text
        assert f"{PAGE}/old/drop" not in text

    def test_of_no_known_state_are_shown_all_the_same(self, administrator, platform):
        platform.signing_keys.append(a_key("odd", "sleeping"))

        assert ">sleeping</span>" in administrator.get(PAGE).text

    def test_may_be_none(self, administrator):
        assert "No keys yet" in administrator.get(PAGE).text

    def test_are_for_administrators(self, signed_in, keys):
        assert signed_in.get(PAGE).status_code == 403
        assert signed_in.submit(f"{PAGE}/rotate").status_code == 403
        assert signed_in.submit(f"{PAGE}/present/drop").status_code == 403
        assert len(keys) == 4


class TestRotateKeys:
    def test_lets_the_next_sign(self, administrator, keys):
        assert administrator.submit(f"{PAGE}/rotate").location == PAGE
        assert keys[-1]["state"] == "active"
        assert "The next keys sign from now on." in administrator.get(PAGE).text

    def test_says_why_not(self, administrator, keys):
        keys.pop()
        administrator.submit(f"{PAGE}/rotate")

        assert "The next key is too young." in administrator.get(PAGE).text


class TestDropKey:
    def test_refuses_what_it_signed(self, administrator, keys):
        for said in ("Nobody takes what it signed.", "It is gone already."):
            administrator.submit(f"{PAGE}/present/drop")
            assert said in administrator.get(PAGE).text
        assert [one["kid"] for one in keys] == ["old", "last", "next"]
