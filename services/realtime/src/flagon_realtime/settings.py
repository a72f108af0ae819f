"""Everything realtime reads from its environment."""

from pydantic import Field, PositiveFloat, PositiveInt

from flagon_chassis.settings import EventSettings


class Settings(EventSettings, frozen=True, env_prefix="REALTIME_"):
    """Settings of one realtime process: read once at start-up, never changed."""

    stream: str = "events"
    """The Redis stream that holds every event of the platform."""
    ring_events: PositiveInt = 8192
    """Most events that a process keeps in memory for clients that are behind."""
    ring_bytes: PositiveInt = 16 * 1024 * 1024
    """Most bytes that those events may take."""
    replay_events: PositiveInt = 20_000
    """Events that one resuming client may make us read from Redis; older: a gap."""

    heartbeat_seconds: PositiveFloat = 15.0
    """Time between two signs of life to a client without events."""
    retry_milliseconds: PositiveInt = 2000
    """Time that a client waits before it connects again, a quarter more or less."""
    stall_seconds: PositiveFloat = 30.0
    """Time without progress after which a client that does not read is closed."""
    rotate_seconds: PositiveFloat = 600.0
    """Age at which a stream is closed, give or take a fifth; the client resumes."""
    check_seconds: PositiveFloat = 0.5
    """Time between two looks at expired and revoked tokens of open streams.

    A look and the pause before it have to fit into the second in which a revocation is
    promised to take effect.
    """
    close_seconds: PositiveFloat = 3.0
    """Time over which the streams are closed after SIGTERM; less than the grace."""

    connections_max: PositiveInt = 10_000
    """Streams that one process serves; beyond them it is full."""
    connections_per_account: PositiveInt = 30
    """Streams that one account may have open in one process."""
    connections_per_address: PositiveInt = 500
    """Streams without a token that one address may have open in one process."""
    publish_bytes_max: PositiveInt = 16 * 1024
    """Largest body of an event that a client publishes."""
    publish_limit: str = "120 per minute"
    """Events that one client may publish; they take room in the stream from others."""

    topics_max: PositiveInt = 20
    """Topics that one stream may ask for, and types; rooms of one WebSocket."""

    sockets_max: PositiveInt = 2_000
    """WebSockets that one process serves; each takes about 32 KB."""
    message_bytes_max: PositiveInt = 4096
    """Largest message that a client may send over a WebSocket."""
    messages_per_second: PositiveFloat = 5.0
    """Messages that one account, or one stranger's WebSocket, may go on sending."""
    messages_at_once: PositiveInt = 50
    """How far it may run ahead of that."""
    presence_seconds: PositiveFloat = 15.0
    """Time after which somebody is gone from a room whose process was killed."""
    lock_seconds: PositiveFloat = 30.0
    """Time after which a lock is free unless its holder renews it."""
    auth_url: str = "http://127.0.0.1:8090"
    """auth from inside: what people of the back office are called."""

    delivery_spans_per_second: int = Field(default=20, ge=0)
    """Most deliveries that a process writes into traces in a second."""
