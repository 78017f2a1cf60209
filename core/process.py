"""How a serving process begins and ends."""

import gc
import logging
import os
import sys
from typing import Final, NoReturn

_COLLECT_AFTER: Final = 50_000
_OLDER_AFTER: Final = 5
_OLDEST_AFTER: Final = 10


def settle() -> None:
    """Everything that stays is loaded: keep the garbage collector from walking over it again and again.

    Every workflow task and every request makes thousands of short-lived objects, nearly all freed by their counts.
    Looking for cycles after every few hundred of them, as by default, took a tenth of the processor time of a job.
    But what has grown old before it became garbage must be looked at as well, after some millions of new objects;
    behind the runs of workflows that had to leave the cache ``core.temporal`` cleans up sooner.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, _OLDER_AFTER, _OLDEST_AFTER)


def leave(code: int) -> NoReturn:
    """End the process now, with everything written out.

    The SDK's own threads outlive its clients and now and then touch the interpreter while it is being torn down,
    which aborts the process after all its work was done. So the teardown is left out.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
