"""The probe: a job that does nothing for a while, to see that the queue is served."""

import time
from typing import Any

from .runs import Run

_STEP_SECONDS = 0.1


def run_probe(run: Run) -> dict[str, Any]:
    """Let the seconds in the job's parameters pass; may be cancelled."""
    seconds = float(run.job.params["seconds"])
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        run.check(turn=False)
        time.sleep(min(left, _STEP_SECONDS))
    return {"seconds": seconds}
