"""`transformers` itself: imported where it is used, quiet, and without what it would fetch or run by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn

from video_ssl.models.hub.families import LEFT_OUT, Family, check_settings


def library() -> ModuleType:
    """Returns the module `transformers`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import transformers
    except ImportError as err:
        raise ImportError("transformers is not installed: pip install 'video_ssl[hub]'.") from err
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the library's progress bars and its tables of unused weights off the screen."""
    logging = library().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def complete_settings(family: Family, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a tower with everything it does not say, as plain values.

    Only keys that the class knows by itself are taken: others would become attributes of its objects, such as the name
    of a kernel that the library then fetches and runs.

    Raises:
        ValueError: values that the class does not take.
    """
    check_settings(given)  # before the class of the library makes lists as long as a number says
    cls = getattr(library(), family.config)
    with quiet():
        known = {name for name in cls().to_dict() if not name.startswith("_")} - LEFT_OUT
        full = cls(**{name: value for name, value in given.items() if name in known}).to_dict()
    return {name: full[name] for name in sorted(known & full.keys())}


def config_of(family: Family, settings: dict[str, Any]) -> Any:
    """Returns the library's configuration of a tower."""
    with quiet():
        config = getattr(library(), family.config)(**settings)
    # Named, so that nothing is chosen by what is installed, and nothing is fetched.
    config._attn_implementation = "sdpa"
    return config


def empty_model(family: Family, settings: dict[str, Any], model: str | None = None) -> nn.Module:
    """Returns the library's model with fresh weights.

    Args:
        family: of the tower.
        settings: of its configuration.
        model: another class than the usual one.
    """
    with quiet():
        cls = getattr(library(), model or family.model)
        made: nn.Module = cls(config_of(family, settings), **family.options)
    return made
