"""HTML as nested calls: every text is escaped unless it is HTML already."""

import html
from collections.abc import Iterable

_EMPTY = ("img", "link", "meta")  # elements without an end tag


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


def join(children: Child) -> Markup:
    """The children one after the other, as HTML."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, Iterable) and not isinstance(children, str):
        return Markup("".join(join(child) for child in children))
    return Markup(html.escape(str(children)))
