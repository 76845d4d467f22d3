"""The report as one HTML page that needs no network: data, charts and tables are all inside."""

import json
from importlib.resources import files
from string import Template
from typing import Any


def render_page(data: dict[str, Any]) -> str:
    """The page for these plain values, of which `page/report.js` says what they are."""
    from plotly.offline import get_plotlyjs

    page, tables = files("yt8m.reporting") / "page", files("itables") / "html"
    template = Template(page.joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=_escaped(data["title"]),
        data=_json(data),
        style=page.joinpath("report.css").read_text(encoding="utf-8"),
        script=page.joinpath("report.js").read_text(encoding="utf-8"),
        chart_library=get_plotlyjs(),
        table_style=tables.joinpath("dt_bundle.css").read_text(encoding="utf-8"),
        table_library=_json(tables.joinpath("dt_bundle.js").read_text(encoding="utf-8")),
    )


def _json(value: Any) -> str:
    """JSON that is safe inside a script element, whatever the texts in it say."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
