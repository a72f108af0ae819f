"""Many WebSockets of Socket.IO that sit in the same rooms, and one that comes and goes."""

import json

from .crowd import Crowd

HANDSHAKE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def frame(text):
    """Return a message of a client as a WebSocket frame; masked with zeros."""
    payload = text.encode()
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def sentence(event, room):
    """Return the frame of an event about a room, which is to be acknowledged."""
    return frame(f"421{json.dumps([event, {'room': room}])}")


ACKNOWLEDGED = b"431["


class Sockets:
    """People in rooms, who hear of everybody that comes and goes.

    :param server: realtime.
    :param rooms: names of those that everybody is in.
    """

    def __init__(self, server, rooms):
        self.rooms = rooms
        self.people = Crowd(server.port, HANDSHAKE, status=101)
        self.other = Crowd(server.port, HANDSHAKE, status=101)
        _greet(self.other, 1)
        self.count = 0

    def open(self, count, settle=1.0):
        """Let so many more in; return once all are in every room.

        :param settle: time in which the last ones are told of each other.
        """
        new = _greet(self.people, count)
        self.count += count
        for room in self.rooms:
            for sock in new:
                sock.sendall(sentence("join", room))
            self.people.receive(count, mark=ACKNOWLEDGED)
        self.people.drain(settle)

    def tell(self, event, rooms):
        """Let somebody `join` or `leave` so many rooms; return once all have heard it."""
        (sock,) = self.other.socks.values()
        for room in self.rooms[:rooms]:
            sock.sendall(sentence(event, room))
        count = self.count + (event == "join")
        # Each change of each room is told to each of its people once.
        self.people.receive(self.count * rooms, mark=f'"count":{count}'.encode())
        self.other.receive(rooms, mark=ACKNOWLEDGED)

    def close(self):
        """Close every connection."""
        self.people.close()
        self.other.close()


def _greet(crowd, count):
    """Open so many connections and say hello; return them once they are answered."""
    before = set(crowd.socks)
    crowd.open(count)
    new = [sock for fd, sock in crowd.socks.items() if fd not in before]
    for sock in new:
        sock.sendall(frame("40"))
    crowd.receive(count, mark=b"40{")
    return new
