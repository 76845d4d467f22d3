"""Self-contained HTML pages: a template, its style sheets, scripts and values."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from helperbot.files import replacing

_FRAMES = "frame-src https://www.youtube-nocookie.com"
PAGE_FILES = files("yt8m.reporting") / "page"


def fill_page(name: str, title: str, data: Any, *, frames: bool = False, **more: str) -> str:
    """Fill the template `<name>.html`, with `<name>.js` and, if it exists, `<name>.css`.

    `data`: plain values for the script, which documents them; `frames`: whether the page may embed YouTube's player;
    `more`: further fields of the template.
    """
    parts = ("base", "viewer", name)
    return Template(_text(f"{name}.html")).substitute(
        title=escaped(title),
        data=json_in_html(data),
        frames=_FRAMES if frames else "frame-src 'none'",
        style=_joined(parts, "css"),
        script=_joined(parts, "js"),
        viewer=_text("viewer.html"),
        **more,
    )


def write_page(path: Path, page: str) -> None:
    """Write a page atomically."""
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def json_in_html(value: Any) -> str:
    """JSON that is safe inside a script element, whatever its strings contain."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def escaped(text: str) -> str:
    """Escape text for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _text(name: str) -> str:
    return PAGE_FILES.joinpath(name).read_text(encoding="utf-8")


def _joined(parts: Sequence[str], ending: str) -> str:
    names = [f"{part}.{ending}" for part in parts]
    return "\n".join(_text(name) for name in names if PAGE_FILES.joinpath(name).is_file())
