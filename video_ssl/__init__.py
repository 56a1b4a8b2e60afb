"""video_ssl: self-supervised video representation learning.

Importing this package imports neither torch nor jax, because every data worker passes through it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load_encoder": "video_ssl.models.encoders:load_encoder",
    "load_flax_encoder": "video_ssl.models.encoders_flax:load_flax_encoder",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'video_ssl' has no attribute {name!r}")
    module, attribute = _LAZY[name].split(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in ("jax", "flax"):
            raise
        raise ImportError(f"{name} needs {err.name}: pip install 'video_ssl[jax]'") from err
