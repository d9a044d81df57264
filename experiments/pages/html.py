"""An HTML page as a tree of elements: text is escaped when the page is written, whoever wrote it.

A page is one file. Its style stands inside it, its figures are inline SVG, its pictures data URLs,
and it has no script.
"""

import pathlib
from collections.abc import Collection, Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from experiments.runs.run_folder import REPORT

Node = Element | str

_STYLE = pathlib.Path(__file__).with_name("style.css")


def tag(name: str, *children: Node, **attributes: str) -> Element:
    """Returns an element.

    Args:
      name: name of the element.
      children: elements and texts, in order.
      attributes: values by name; `class_` is `class`, and other underscores are hyphens.
    """
    element = Element(
        name, {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    )
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


def section(anchor: str, title: str, *children: Node) -> Element:
    """Returns a section with its heading, to which the page's navigation links."""
    return tag("section", tag("h2", title), *children, id=anchor)


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Node]],
    text: Collection[int] = (0,),
    caption: str = "",
) -> Element:
    """Returns a table that scrolls sideways where the page is narrow.

    Args:
      head: titles of the columns.
      rows: cells; the first of a row is its heading.
      text: columns of text; the others are figures and aligned to the right.
      caption: description above the table; empty for none.
    """

    def side(column: int) -> str:
        return "text" if column in text else "figure"

    titles = [tag("th", title, scope="col", class_=side(i)) for i, title in enumerate(head)]
    lines = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=side(0)),
            *(tag("td", cell, class_=side(i)) for i, cell in enumerate(row[1:], start=1)),
        )
        for row in rows
    ]
    shown = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *lines))
    if not caption:
        return tag("div", shown, class_="scroll")
    shown.set("aria-label", caption)
    # Not a <caption>, which would scroll with the table.
    return tag("div", tag("p", caption, class_="caption"), tag("div", shown, class_="scroll"))


def tile(name: str, value: str, *notes: Node) -> Element:
    """Returns a figure that a reader looks for first, with its name above and notes below."""
    return tag(
        "div",
        tag("p", name, class_="name"),
        tag("p", value, class_="value"),
        *(tag("p", note) for note in notes),
        class_="tile",
    )


def page(kind: str, title: str, sections: Sequence[Element]) -> str:
    """Returns the text of a page.

    Args:
      kind: kind of work that the page reports, above the title.
      title: title of the page.
      sections: elements by `section`, in order.
    """
    links = [
        tag("a", "".join(one.find("h2").itertext()), href=f"#{one.get('id')}")  # type: ignore[union-attr]
        for one in sections
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", _STYLE.read_text(encoding="utf-8")),
    )
    header = tag("header", tag("p", kind, class_="kind"), tag("h1", title), tag("nav", *links))
    root = tag("html", head, tag("body", header, tag("main", *sections)), lang="en")
    text = ElementTree.tostring(root, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n"


def save(text: str, folder: pathlib.Path) -> None:
    """Writes report.html, whole or not at all."""
    partial = folder / f"{REPORT}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / REPORT)
