"""HTML as nested calls: every text is escaped unless it is HTML already."""

import html
from collections.abc import Iterable, Sequence

from ddrnet_jax.text import printable

DASH = "–"  # where there is no number
_EMPTY = ("img", "link", "meta")  # elements without an end tag
# A page may show its own pictures and styles; whatever a name smuggles in can neither run nor load anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Child = str | int | float | None | Iterable


def element(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """<name attribute="...">children</name>; None, and an attribute that is False, are left out.

    attributes  class_ is class, and _ within a name is -: stroke_width; but viewBox
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    texts = (
        f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
        for key, value in pairs
        if value is not None and value is not False
    )
    opening = f"<{name}{''.join(texts)}>"
    return Markup(opening) if name in _EMPTY else Markup(f"{opening}{join(children)}</{name}>")


def name_of(what: str) -> Markup:
    """A name from outside, on its own: it neither turns the text around it nor holds what is no text."""
    return element("bdi", printable(what))


def join(children: Child) -> Markup:
    """The children one after the other, as HTML."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, Iterable) and not isinstance(children, str):
        return Markup("".join(join(child) for child in children))
    return Markup(html.escape(str(children)))


def table(head: Sequence, rows: Sequence[Sequence], *, class_: str = "") -> Markup:
    """A table whose first column names its rows; wide ones scroll by themselves."""
    header = element("thead", element("tr", [element("th", cell, scope="col") for cell in head]))
    body = [element("tr", element("th", r[0], scope="row"), [element("td", c) for c in r[1:]]) for r in rows]
    inner = element("table", header, element("tbody", body), class_=class_ or None)
    return element("div", inner, class_="scroll", tabindex=0)


def document(title: str, css: str, *children: Child) -> str:
    """The text of an HTML file that needs no network, no script and nothing beside it; children make its body."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(css)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *children), lang='en')}\n"
