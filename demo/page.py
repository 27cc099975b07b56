"""The page of results: one file with its pictures inside, to open without a server."""

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin: 2.5rem 0 .25rem; font-size: 1.15rem; }
p.asked { margin: 0 0 .75rem; }
code { background: var(--soft); padding: .1em .3em;
  border-radius: 4px; }
.found { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .75rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
figure div { background: #fff; height: 9rem; display: flex; align-items: center;
  justify-content: center; }
figure img { max-width: 90%; max-height: 90%; object-fit: contain; }
figcaption { padding: .4rem .6rem; font-size: .85rem; }
figcaption small { display: block; opacity: .65; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .9rem; } td, th { text-align: left;
  padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
footer { margin: 3rem 0; opacity: .7; font-size: .85rem; }
"""
TYPES = {"image/png", "image/svg+xml", "image/jpeg"}


@dataclass(frozen=True)
class Shown:
    """One row of an answer, with its picture."""

    path: str
    caption: str
    near: float | None
    media_type: str
    picture: bytes

    def line(self) -> str:
        """As it is printed."""
        near = "" if self.near is None else f"{self.near:.3f}  "
        return f"{near}{self.caption or '-'}  ({self.path})"

    def html(self) -> str:
        """As it stands on the page."""
        image = ""
        if self.media_type in TYPES:
            data = base64.b64encode(self.picture).decode()
            image = f'<img alt="" src="data:{self.media_type};base64,{data}">'
        near = "" if self.near is None else f" · {self.near:.3f}"
        return (
            f"<figure><div>{image}</div><figcaption>{html.escape(self.caption)}"
            f"<small>{html.escape(self.path)}{near}</small></figcaption></figure>"
        )


class Page:
    """Collects what is shown and writes it at the end."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def search(self, title: str, asked: str, found: list[Shown], note: str = "") -> None:
        """One search with what it found."""
        figures = "\n".join(one.html() for one in found) or "<p>Nothing.</p>"
        said = f"<p>{html.escape(note)}</p>" if note else ""
        self._parts.append(
            f"<h2>{html.escape(title)}</h2><p class=asked><code>{html.escape(asked)}</code></p>"
            f"{said}<div class=found>{figures}</div>"
        )

    def table(self, title: str, asked: str, rows: pa.Table) -> None:
        """The rows of a query."""
        names = "".join(f"<th>{html.escape(name)}</th>" for name in rows.column_names)
        lines = "".join(
            "<tr>" + "".join(cell(value) for value in row.values()) + "</tr>"
            for row in rows.to_pylist()
        )
        self._parts.append(
            f"<h2>{html.escape(title)}</h2><p class=asked><code>{html.escape(asked)}</code></p>"
            f"<table><tr>{names}</tr>{lines}</table>"
        )

    def write(self, path: Path, steps: list[tuple[str, float]]) -> None:
        """Writes the page, with the steps and their times at its end."""
        times = "".join(
            f"<tr><td>{html.escape(name)}</td><td class=number>{seconds:.1f} s</td></tr>"
            for name, seconds in steps
        )
        body = "\n".join(self._parts)
        path.write_text(
            "<!doctype html><html lang=en><meta charset=utf-8>"
            "<meta name=viewport content='width=device-width'><title>Lakebed: a demo</title>"
            f"<style>{STYLE}</style><h1>A lake of pictures</h1>"
            "<p>Pictures, captions and sounds of Tux Paint's stamps (GPL-2), films and recordings "
            "of robots, imported, embedded by two workers and searched.</p>"
            f"{body}<h2>What it took</h2><table>{times}</table>"
            "<footer>Written by <code>make demo</code>.</footer></html>",
            encoding="utf-8",
        )


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, int | float):
        return f"<td class=number>{value:,}</td>"
    return f"<td>{html.escape('' if value is None else str(value))}</td>"
