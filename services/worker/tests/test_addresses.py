"""Where webhooks may go, and that nobody gets around it."""

import socket
import threading

import pytest

from flagon_worker.domain.addresses import AddressRefused, check, place
from flagon_worker.egress import Hooks, resolve


class TestCheck:
    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1",
            "127.8.9.10",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "2001:0:808:808::1",
            "2001:db8::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fe80::1%eth0",
            "fec0::1",
            "ff02::1",
            "5f00::1",
        ],
    )
    def test_refuses_what_is_not_of_the_open_network(self, address):
        with pytest.raises(AddressRefused):
            check(address)

    @pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
    def test_lets_the_open_network_pass(self, address):
        check(address)

    def test_lets_this_machine_pass_where_it_may(self):
        check("127.0.0.1", loopback=True)
        check("::1", loopback=True)
        with pytest.raises(AddressRefused):
            check("::ffff:127.0.0.1", loopback=True)
        with pytest.raises(AddressRefused):
            check("10.0.0.1", loopback=True)


class TestPlace:
    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/",
            "ftp://example.com/",
            "//example.com/",
            "https:example.com",
            "https://user@example.com/",
            "https://user:password@example.com/",
            "https://example.com:22/",
            "https://example.com:99999/",
            "https://example.com/#part",
            "https://example.com\\@127.0.0.1/",
            "https://example.com/a b",
            "https://example.com/\r\nHost: other",
            "https://exämple.com/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:8.8.8.8]/",
            "https://169.254.169.254/latest",
            "https://",
            "",
        ],
    )
    def test_refuses_what_is_none_of_ours(self, url):
        with pytest.raises(AddressRefused):
            place(url)

    def test_takes_a_url_apart(self):
        found = place("https://shop.example.com:8443/hooks?x=1")

        assert (found.host, found.port) == ("shop.example.com", 8443)
        assert found.target == "/hooks?x=1"
        assert found.authority == "shop.example.com:8443"
        assert place("https://[2606:4700::1]/").authority == "[2606:4700::1]"


@pytest.fixture
def listener():
    """A socket of this machine that must hear of nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


def assert_nobody_came(listener):
    with pytest.raises(TimeoutError):
        listener.accept()


class TestHooks:
    @pytest.fixture
    def strict(self, settings):
        return settings.model_copy(update={"webhook_loopback": False})

    @pytest.mark.parametrize(
        "found",
        [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["10.0.0.1"]],
    )
    def test_refuse_names_that_stand_for_inner_addresses(self, strict, found):
        hooks = Hooks(strict, lambda _host, _port: found)

        answer = hooks.post("https://evil.example.com/", {}, b"{}")

        assert answer.status is None
        assert "not of the open network" in answer.error

    @pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "localhost"])
    def test_refuse_other_spellings_of_this_machine(self, strict, host):
        answer = Hooks(strict).post(f"https://{host}/", {}, b"{}")

        assert "not of the open network" in answer.error

    def test_go_to_the_address_that_was_checked(self, settings, listener, monkeypatch):
        """DNS rebinding: the second answer of the name is an inner address."""
        answers = [["127.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]]
        asked = []

        def rebinding(host, port):
            asked.append(host)
            return answers[len(asked) - 1]

        went = []
        real = socket.create_connection

        def connect(address, **options):
            went.append(address)
            return real(address, **options)

        monkeypatch.setattr(socket, "create_connection", connect)
        port = listener.getsockname()[1]
        listener.settimeout(5)
        threading.Thread(target=self._answer, args=(listener,), daemon=True).start()

        answer = Hooks(settings, rebinding).post(
            f"http://rebind.example.com:{port}/", {}, b"{}"
        )

        assert answer.status == 204
        assert asked == ["rebind.example.com"]
        assert went == [("127.0.0.1", port)]

    def test_check_a_name_anew_at_each_delivery(self, settings, listener):
        answers = iter([["10.0.0.1"]])
        port = listener.getsockname()[1]
        hooks = Hooks(settings, lambda _host, _port: next(answers))

        answer = hooks.post(f"http://rebind.example.com:{port}/", {}, b"{}")

        assert "not of the open network" in answer.error
        assert_nobody_came(listener)

    def test_of_development_still_hold_the_open_network_to_the_rules(self, settings):
        hooks = Hooks(settings, lambda _host, _port: ["8.8.8.8"])

        plain = hooks.post("http://example.com/", {}, b"{}")
        port = hooks.post("https://example.com:25/", {}, b"{}")

        assert "https" in plain.error
        assert "ports" in port.error

    def test_ignore_proxies_of_the_environment(self, settings, listener, monkeypatch):
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("http_proxy", proxy)

        Hooks(settings).post("http://127.0.0.1:1/", {}, b"{}")

        assert_nobody_came(listener)

    def test_ask_the_operating_system(self):
        assert "127.0.0.1" in resolve("127.0.0.1", 80)

    @staticmethod
    def _answer(listener):
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
