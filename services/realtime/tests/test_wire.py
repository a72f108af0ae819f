import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagon_realtime import wire


class TestEvent:
    def test_has_id_type_and_data(self):
        assert wire.event(b"1-0", b"t", b"{}") == b"id: 1-0\nevent: t\ndata: {}\n\n"

    @given(st.text(alphabet=st.sampled_from("ab\r\n: "), max_size=30))
    def test_is_one_event_whatever_the_body(self, body):
        block = wire.event(b"1-0", b"t", body.encode())

        assert block.count(b"\n\n") == 1
        assert block.endswith(b"\n\n")
        assert b"\r" not in block
        lines = block.decode().split("\n")[2:-2]
        assert [line.removeprefix("data: ") for line in lines] == (
            body.encode().decode().splitlines() or [""]
        )


class TestIds:
    @given(st.tuples(st.integers(0, 2**50), st.integers(0, 2**50)))
    def test_survive_the_way_to_the_client_and_back(self, stream_id):
        assert wire.parse_id(wire.format_id(stream_id)) == stream_id

    @pytest.mark.parametrize(
        ("stream_id", "before"),
        [((5, 3), (5, 2)), ((5, 0), (4, 2**64 - 1)), ((0, 0), (0, 0))],
    )
    def test_have_a_neighbour_below(self, stream_id, before):
        assert wire.before(stream_id) == before


class TestClose:
    def test_tells_why_and_when_to_come_back(self):
        assert wire.close("age", 300) == (
            b'retry: 300\nevent: close\ndata: {"reason": "age"}\n\n'
        )
