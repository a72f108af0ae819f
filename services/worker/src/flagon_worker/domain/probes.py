"""The probe: a job that does nothing for a while, to see that the queue is served.

It can misbehave as jobs do: so operators see that what holds for bad jobs holds here.
"""

import os
import signal
import time
from typing import Any

from .runs import Run

_STEP_SECONDS = 0.1


def run_probe(run: Run) -> dict[str, Any]:
    """Let the seconds in the job's parameters pass; may be cancelled.

    `stubborn` ones do not hear that they are to end, `crash` takes the process down.
    """
    params = run.job.params
    seconds = float(params["seconds"])
    if params.get("crash"):
        # As the kernel does where memory runs out: nothing can be written down any more.
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not params.get("stubborn"):
            run.check(turn=False)
        time.sleep(min(left, _STEP_SECONDS))
    return {"seconds": seconds}
