"""Puts the toys into the tables of every Python that is started with this folder on its path, as a plug-in would."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import toys

toys.register()
