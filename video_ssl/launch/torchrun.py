"""`python -m video_ssl.launch.torchrun ARGUMENTS`: torchrun without its own words about a process that has failed, or
about a signal.

The process has printed why, or the history of the attempt shows which one was killed.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.ERROR)  # it has set OMP_NUM_THREADS
    try:
        main(sys.argv[1:])
    except ChildFailedError as err:
        code = err.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else 128 - code)
    except SignalException as err:  # passed on to the processes, which have ended
        sys.exit(128 + err.sigval)
