"""jax in tests: on the CPU, with eight devices, whatever the machine has, and compiled quickly rather than well.

What is compiled is kept until the tests end, also for the processes that they start: most runs are of the same few
programs, and a program from the folder is the same to the bit.  Must be set before jax is imported: once it has
compiled without a folder, it asks for none any more.
"""

import os
import shutil
import tempfile

from quick_xla import DEVICES, quick_xla

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick_xla(8)}".strip()
_OURS = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _OURS = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="video_ssl-compiled-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_unconfigure() -> None:
    if _OURS is not None:
        shutil.rmtree(_OURS, ignore_errors=True)
