"""The plugin of the golden files, here so that its option is known wherever pytest is called from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tests" / "golden"))

pytest_plugins = ["golden_plugin", "pytester"]
