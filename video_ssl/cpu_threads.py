"""How the threads of torch wait for each other.  Free of torch: it must be settled before torch is loaded."""

from __future__ import annotations

import os


def let_waiting_threads_sleep() -> None:
    """Makes OpenMP threads that wait for each other sleep, unless the user's environment says otherwise.

    By default they spin, which is as fast on an idle machine and several times slower where another process wants the
    core: the data workers, or a neighbour.  Results do not depend on it.  Child processes inherit the setting.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # libgomp and libomp
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # Intel's
