"""The usual way to stream from Flask: a Redis subscription and a thread per client.

The lower bar of `bench_sse_fanout.py`; served by gunicorn's gevent worker. No resume, no
heartbeat, no limits: it does less than realtime does.
"""

import os

import redis
from flask import Flask, Response, request

app = Flask(__name__)
_store = redis.Redis.from_url(
    os.environ.get("BENCH_REDIS_URL", "redis://"),
    socket_timeout=None,
    # The library's own limit is 100; this design needs one for each client.
    max_connections=10_000,
)


@app.get("/events")
def events():
    """Stream one Redis channel."""
    topic = request.args["topic"]

    def blocks():
        subscription = _store.pubsub()
        subscription.subscribe(topic)
        yield ":\n\n"
        for message in subscription.listen():
            if message["type"] == "message":
                yield f"event: changed\ndata: {message['data'].decode()}\n\n"

    return Response(blocks(), mimetype="text/event-stream")
