"""jax in tests: on the CPU, with eight devices, whatever the machine has, and compiled quickly rather than well.

Must be set before jax is imported.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join(
        [os.environ.get("XLA_FLAGS", ""), f"{_FLAG}=8", "--xla_backend_optimization_level=0"]
    ).strip()
