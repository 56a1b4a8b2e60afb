"""Pages from the templates in templates/: whatever is not marked as a drawing of ours is escaped.

A page is one file: its styles and scripts are files of their own here and are written into it.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from video_ssl.files import page_mark, write_atomically

__all__ = ["render_page", "render_part", "write_page"]


def write_page(path: Path, template: str, *, verb: str, origin: object, **values: Any) -> int:
    """Writes a page, whole or not at all, and returns its size in bytes.

    Args:
        template: file of templates/ that extends page.html.j2.
        verb: the command that makes the page; named in its head and at its end.
        origin: what the page is about, for its last line.
        values: what the template shows.  Text is escaped, `Markup` is not.
    """
    page = render_page(template, verb=verb, origin=origin, **values)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return len(page.encode())


def render_page(template: str, *, verb: str, origin: object, **values: Any) -> str:
    """Returns the text of a page; arguments as for `write_page`."""
    return render_part(
        template,
        mark=Markup(page_mark(verb)),
        verb=verb,
        origin=origin,
        written=time.strftime("%Y-%m-%d %H:%M"),
        **values,
    )


def render_part(template: str, **values: Any) -> str:
    """Returns the text of a template that is no page of a verb; text is escaped, `Markup` is not."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    loader = PackageLoader("video_ssl.explore.pages", "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # `tojson` writes <, >, & and ' as \u003c ..., so that no text ends the script it stands in.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals["asset"] = functools.partial(_asset, environment, loader)
    return environment


def _asset(environment: Environment, loader: BaseLoader, name: str) -> Markup:
    """The text of a style or script of ours, unescaped and never read as a template."""
    return Markup(loader.get_source(environment, name)[0])
