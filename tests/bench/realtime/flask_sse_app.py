"""Flask-SSE as its documentation has it: a Redis subscription and a greenlet per client.

Served by gunicorn's gevent worker. No resume, no heartbeat, no limits, and no answer before
the first event: it does less than realtime does.
"""

import os

from flask import Flask
from flask_sse import sse

app = Flask(__name__)
app.config["REDIS_URL"] = os.environ["BENCH_REDIS_URL"]
app.register_blueprint(sse, url_prefix="/events")
