"""How a process that used Temporal's SDK ends."""

import logging
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process now, with everything written out.

    The SDK's own threads outlive its clients and now and then touch the interpreter while it is being torn down,
    which aborts the process after all its work was done. So the teardown is left out.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
