"""What all tests share: jax on the CPU, and the plugin of the golden files."""

import os
import sys
from pathlib import Path

# With eight devices, whatever the machine has, and compiled quickly rather than well: to be set before jax is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join(
        [os.environ.get("XLA_FLAGS", ""), f"{_FLAG}=8", "--xla_backend_optimization_level=0"]
    ).strip()

# What tests of golden files share, wherever they lie.
sys.path.insert(0, str(Path(__file__).parent / "golden"))

pytest_plugins = ["golden_plugin", "pytester"]
