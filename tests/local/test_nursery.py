"""A process that is forked instead of started anew, told apart by nothing that matters."""

import json
import os
import signal
import subprocess
import sys

import pytest

from .conftest import ROOT

AS_SUPERVISOR = """
import os, signal, sys
from flagonctl import nursery
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGCHLD, lambda *_: None)
sys.stdout = open(os.devnull, "w")
os.environ["OF_THE_SUPERVISOR"] = "1"
nursery.become({wanted!r})
"""


@pytest.fixture
def become(tmp_path):
    """A function that runs code as the `__main__` of a forked process."""

    def run(code, *arguments):
        (tmp_path / "thing").mkdir()
        (tmp_path / "thing" / "__init__.py").touch()
        (tmp_path / "thing" / "__main__.py").write_text(code)
        wanted = {
            "argv": [sys.executable, "-m", "thing", *arguments],
            "env": {"PYTHONPATH": str(tmp_path), "FLAGON_PROCESS": "thing-bulk"},
        }
        return subprocess.run(
            [sys.executable, "-P", "-c", AS_SUPERVISOR.format(wanted=wanted)],
            env=os.environ | {"PYTHONPATH": str(ROOT / "deploy" / "local")},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


class TestBecome:
    def test_has_its_own_arguments_environment_and_name(self, become):
        done = become(
            "import json, os, sys; from pathlib import Path\n"
            "print(json.dumps([__name__, sys.argv[1:], sorted(os.environ),"
            " Path('/proc/self/comm').read_text()]))",
            "celery",
            "--queues",
        )

        assert json.loads(done.stdout) == [
            "__main__",
            ["celery", "--queues"],
            ["FLAGON_PROCESS", "PYTHONPATH"],
            "thing-bulk\n",
        ]

    def test_answers_signals_as_a_new_process_does(self, become):
        assert become("import os; os.kill(os.getpid(), 15)").returncode == -15
        assert signal.SIGTERM == 15

    def test_does_not_see_what_the_supervisor_is_made_of(self, become):
        done = become("import sys; print(any('deploy/local' in p for p in sys.path))")

        assert done.stdout == "False\n"

    @pytest.mark.parametrize(
        ("code", "status", "said"),
        [
            ("", 0, ""),
            ("raise SystemExit", 0, ""),
            ("raise SystemExit(3)", 3, ""),
            ("raise SystemExit('no such command')", 1, "no such command\n"),
        ],
    )
    def test_ends_with_its_status(self, become, code, status, said):
        done = become(code)

        assert (done.returncode, done.stderr) == (status, said)

    def test_a_crash_is_written_down(self, become):
        done = become("1 / 0")

        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"

    def test_threads_and_exit_functions_come_to_their_end(self, become):
        done = become(
            "import atexit, threading, time\n"
            "atexit.register(print, 'last')\n"
            "def work():\n time.sleep(0.1); print('worked')\n"
            "threading.Thread(target=work).start()"
        )

        assert done.stdout == "worked\nlast\n"


class TestShared:
    def test_nothing_shared_looks_at_its_process_when_imported(self):
        code = (
            "import importlib, sys; from flagonctl import nursery\n"
            "for name in nursery._SHARED: importlib.import_module(name)\n"
            "print([name for name in ('prometheus_client', 'gevent', 'flagon_chassis')"
            " if name in sys.modules])"
        )

        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT / "deploy" / "local")},
            capture_output=True,
            text=True,
            check=True,
        )

        assert done.stdout == "[]\n"
