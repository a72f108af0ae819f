"""What clients of WebSockets can send that no client should."""

import json
import os
import socket
import struct
import time
from contextlib import suppress
from uuid import uuid4

import pytest
import websocket

PATIENCE = 30.0
TEXT, BINARY, CONTINUATION, PING = 1, 2, 0, 9
NORMAL, PROTOCOL, UNSUPPORTED, BAD_TEXT = 1000, 1002, 1003, 1007
POLICY, TOO_BIG = 1008, 1009


class Raw:
    """A WebSocket whose bytes are the test's."""

    def __init__(self, port, *, greet=True, headers=None, sockopt=()):
        self.ws = websocket.create_connection(
            f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket",
            timeout=PATIENCE,
            suppress_origin=True,
            header=headers,
            sockopt=sockopt,
        )
        self.closed_with = None
        assert self.read().startswith("0{")
        if greet:
            self.ws.send("40")
            assert self.read().startswith("40{")

    def read(self):
        """Return the next text; None once the server has closed, with its code."""
        try:
            kind, data = self.ws.recv_data()
        except (OSError, websocket.WebSocketException):
            return None
        if kind == websocket.ABNF.OPCODE_CLOSE:
            self.closed_with = struct.unpack("!H", data[:2])[0] if data else NORMAL
            return None
        return data.decode()

    def read_to_end(self):
        """Return the code that the server closes with."""
        while self.read() is not None:
            pass
        return self.closed_with

    def frame(self, kind, payload, *, final=True, masked=True, rsv=0, length=None):
        """Send a frame, as wrong as asked for."""
        size = len(payload) if length is None else length
        head = bytes([final << 7 | rsv << 4 | kind])
        mask = os.urandom(4)
        if size < 126:
            head += bytes([masked << 7 | size])
        elif size < 1 << 16:
            head += struct.pack("!BH", masked << 7 | 126, size)
        else:
            head += struct.pack("!BQ", masked << 7 | 127, size)
        if masked:
            hidden = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
            head += mask + hidden
        else:
            head += payload
        self.bytes(head)

    def bytes(self, block):
        # It may have closed already: `read` says how.
        with suppress(OSError):
            self.ws.sock.sendall(block)

    def call(self, event, *arguments):
        self.ws.send("427" + json.dumps([event, *arguments]))
        while True:
            text = self.read()
            if text.startswith("437"):
                return json.loads(text[3:])[0]

    def close(self):
        self.ws.shutdown()


@pytest.fixture
def process(redis_url, shared_processes):
    """A server that is as well after the test as it was before."""
    # With no time to rest, what is counted does not depend on how fast the machine is.
    found = shared_processes(messages_per_second=0.001, messages_at_once=50)
    yield found
    found.wait_for(lambda: found.metric("flagon_websocket_connections") == 0)
    log = found.log.read_text()
    assert "Traceback" not in log
    assert '"crash"' not in log


@pytest.fixture
def raw(process):
    opened = []

    def make(**options):
        opened.append(Raw(process.port, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def problem(answer):
    return answer["problem"]["type"].partition("#")[2]


class TestFrames:
    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            pytest.param((BINARY, b"x"), UNSUPPORTED, id="binary"),
            pytest.param((TEXT, b"4" + b"x" * 5000), TOO_BIG, id="large"),
            pytest.param((TEXT, b"\xff\xfe"), BAD_TEXT, id="no UTF-8"),
            pytest.param((3, b"x"), PROTOCOL, id="unknown kind"),
            pytest.param((CONTINUATION, b"x"), PROTOCOL, id="goes on with nothing"),
            pytest.param((PING, b"x" * 126), PROTOCOL, id="large ping"),
        ],
    )
    def test_that_are_wrong_end_the_connection(self, raw, frame, code):
        one = raw()
        one.frame(*frame)

        assert one.read_to_end() == code

    def test_without_a_mask_end_the_connection(self, raw):
        one = raw()
        one.frame(TEXT, b"3", masked=False)

        assert one.read_to_end() == PROTOCOL

    def test_that_are_compressed_end_the_connection(self, raw):
        # A few bytes could become a gigabyte; nobody agreed on it.
        one = raw(headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
        assert "sec-websocket-extensions" not in one.ws.headers
        one.frame(TEXT, b"\xca\x48\xcd\xc9\xc9\x07\x00", rsv=4)

        assert one.read_to_end() == PROTOCOL

    def test_that_announce_a_terabyte_are_not_waited_for(self, raw):
        one = raw()
        one.frame(TEXT, b"4" + b"x" * 8000, length=1 << 40)

        assert one.read_to_end() == TOO_BIG

    def test_that_never_end_a_message_end_the_connection(self, raw):
        one = raw()
        one.frame(TEXT, b"4", final=False)
        for _ in range(6):
            one.frame(CONTINUATION, b"x" * 1000, final=False)

        assert one.read_to_end() == TOO_BIG

    def test_without_content_are_counted_too(self, raw):
        one = raw()
        one.frame(TEXT, b"4", final=False)
        for _ in range(2000):
            one.frame(CONTINUATION, b"", final=False)

        assert one.read_to_end() == POLICY

    def test_of_pings_are_answered_at_a_pace(self, raw):
        one = raw()
        one.frame(PING, b"x")
        for _ in range(2000):
            one.frame(PING, b"x")

        assert one.read_to_end() == POLICY

    def test_of_garbage_end_the_connection(self, raw):
        one = raw()
        one.bytes(os.urandom(20_000))

        one.read_to_end()

    def test_in_parts_are_one_message(self, raw):
        one = raw()
        one.frame(TEXT, b'427["leave",', final=False)
        one.frame(PING, b"between")
        one.frame(CONTINUATION, b'{"room":"tags"}]')

        assert "room-not-joined" in one.read()


class TestPackets:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x",
            "4",
            "49",
            "4x",
            "2",
            "2probe",
            "3probe",
            "5",
            "6",
            "0{}",
            "b4xx",
            # Socket.IO: other namespaces, a second hello, what only servers send.
            "40",
            "40/admin,",
            "42/admin,[1]",
            '42/x,["join",{}]',
            '43["x"]',
            '431["x"]',
            '44{"message":"x"}',
            # Attachments that would be kept without an end.
            '4599999999-["x",{"_placeholder":true,"num":0}]',
            '451-["x",{"_placeholder":true,"num":0}]',
            '461-["x"]',
            # Events that are none.
            "42",
            "42{}",
            "42[]",
            "42[1]",
            "42[null]",
            '42["connect"]',
            '42["disconnect"]',
            '42["*"]',
            '42["join",{},{}]',
            '42["join",{"room":NaN}]',
            '42["join",{"room":"\\ud800"}]',
            '42["join",{"room":"\\u0000"}]',
            '42["join"',
            "42" + "[" * 4000,
            '42["join",' + '{"room":' * 400,
            "42" + "9" * 200 + '["join"]',
        ],
    )
    def test_that_no_client_sends_end_the_connection(self, raw, text):
        one = raw()
        one.ws.send(text)

        assert one.read_to_end() == POLICY

    def test_before_the_hello_end_the_connection(self, raw):
        one = raw(greet=False)
        one.ws.send('427["join",{"room":"tags"}]')

        assert one.read_to_end() == POLICY

    def test_that_never_come_keep_nothing_open(self, raw, bearer):
        one = raw(greet=False, headers=bearer(exp=int(time.time()) + 1))

        assert one.read_to_end() is None

    @pytest.mark.parametrize("text", ["1", "41"])
    def test_of_goodbye_are_taken(self, raw, process, text):
        one = raw()
        one.call("join", {"room": "tags"})
        one.ws.send(text)

        process.wait_for(lambda: process.metric("flagon_websocket_rooms") == 0)


class TestMessages:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            [None],
            ["tags"],
            [[]],
            [{}],
            [{"room": 1}],
            [{"room": ["tags"]}],
            [{"room": "tags", "more": 1}],
            [{"room": "tags", "~/": {"a": [10**90] * 5}}],
            [{"room": "x" * 3000}],
            [[[[[[[[[[{}]]]]]]]]]],
        ],
    )
    def test_that_match_no_schema_are_told_what_is_wrong(self, raw, arguments):
        answer = raw().call("join", *arguments)

        assert problem(answer) == "message-malformed"
        assert len(json.dumps(answer)) < 4000

    @pytest.mark.parametrize("name", ["", "JOIN", "__class__", "message", "x" * 3000])
    def test_that_are_unknown_are_refused(self, raw, name):
        answer = raw().call(name, {})

        assert problem(answer) == "message-unknown"
        assert len(json.dumps(answer)) < 1000

    def test_without_a_wish_for_an_answer_are_handled_alike(self, raw):
        one = raw()
        one.ws.send('42["join",{"room":"tags"}]')

        assert one.call("leave", {"room": "tags"}) == {"room": "tags"}

    def test_by_the_thousand_are_refused_and_end_in_the_end(self, raw, process):
        one = raw()
        room = uuid4().hex
        for number in range(1000):
            one.frame(
                TEXT, f'42{number}["join",{{"room":"tags/{room}{number}"}}]'.encode()
            )
        answers = []
        while (text := one.read()) is not None:
            if text.startswith("43"):
                answers += json.loads(text[text.index("[") :])

        slugs = [problem(a) for a in answers if "problem" in a]
        assert sum("count" in answer for answer in answers) == 20
        assert slugs.count("too-many-rooms") == 30
        assert set(slugs[30:]) == {"too-many-messages"}
        # The last ones were not written any more when it was one too many.
        assert 50 < len(answers) < 500
        assert one.closed_with == POLICY
        process.wait_for(
            lambda: (
                process.metric("flagon_websocket_dropped_total", reason="flooding") > 0
            )
        )

    def test_of_one_account_count_together(self, raw, bearer):
        headers = bearer(sub=uuid4().hex)
        windows = [raw(headers=headers) for _ in range(3)]
        for window in windows:
            for number in range(30):
                window.ws.send(f'42{number}["leave",{{"room":"tags"}}]')

        slugs = []
        for window in windows:
            for _ in range(30):
                answer = json.loads(window.read().partition("[")[2][:-1])
                slugs.append(problem(answer))
        assert slugs.count("room-not-joined") == 50
        assert slugs.count("too-many-messages") == 40
        assert problem(raw().call("leave", {"room": "tags"})) == "room-not-joined"


class TestWhoReadsNothing:
    def test_is_ended_and_holds_up_nobody(self, redis_url, shared_processes):
        process = shared_processes(messages_at_once=100_000)
        before = process.metric("flagon_websocket_dropped_total", reason="behind")
        small = (socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled, well = Raw(process.port, sockopt=[small]), Raw(process.port)
        room = {"room": f"tags/{uuid4()}"}
        for one in (stalled, well):
            assert "count" in one.call("join", room)

        # Each is answered with some hundred bytes, which nobody takes. Not answered
        # are those that do not fit on the way there, so the test must not wait.
        stalled.ws.sock.setblocking(False)
        while (
            process.metric("flagon_websocket_dropped_total", reason="behind") == before
        ):
            for number in range(100):
                stalled.frame(TEXT, f'42{number}["x",{{}}]'.encode())
            assert "count" in well.call("join", room)

        process.wait_for(lambda: process.metric("flagon_websocket_connections") == 1)
        stalled.close()
        well.close()


class TestLocks:
    def test_of_many_who_want_one_go_to_one(self, raw, bearer):
        room = f"products/{uuid4()}"
        people = [raw(headers=bearer("catalog:write")) for _ in range(8)]
        for one in people:
            one.call("join", {"room": room})
        for one in people:
            one.ws.send("427" + json.dumps(["lock", {"room": room}]))

        answers = []
        for one in people:
            while not (text := one.read()).startswith("437"):
                pass
            answers.append(json.loads(text[3:])[0])
        assert sum("token" in answer for answer in answers) == 1
        assert sum("problem" in answer for answer in answers) == 7
