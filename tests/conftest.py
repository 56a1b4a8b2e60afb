"""jax in tests: on the CPU, with eight devices, whatever the machine has, and compiled quickly rather than well.

Must be set before jax is imported.  Nothing compiled is kept from one process to the next: of the programs that jax
reads from such a folder, those of several processes on CPUs wait for each other for ever (docs/jax.md).
"""

import os
import signal

from quick_xla import DEVICES, quick_xla

# A shell that starts the tests in the background makes them, and whatever they start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick_xla(8)}".strip()
