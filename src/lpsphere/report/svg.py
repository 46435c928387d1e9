"""A matplotlib figure as inline SVG that takes its colours and its type from the page."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from lpsphere.report.style import COLOURS

_NAMESPACE = re.compile(r"\{[^}]*\}")
_REFERENCE = re.compile(r"#([\w.-]+)")
_COLOUR = re.compile("|".join(COLOURS.values()))
_FONT = re.compile(r"(?<=font-family: )[^;]*|(?<=px )'[^;]*")
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}


def inline_svg(figure: Figure, label: str, prefix: str) -> str:
    """The figure as an `<svg>` element for an HTML page.

    Text stays text, in the page's own typeface; the colours of the report's palette become CSS variables, so
    that the page's dark scheme reaches the figure; the figure scales with its column.

    Args:
        figure: Any figure of `lpsphere.report.plots`.
        label: What the figure says, in words, for those who cannot see it.
        prefix: Distinguishes the ids of this figure from others on the page, such as "f1".

    Returns:
        The element, with no namespace declaration, no metadata and no reference to anything outside it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _NAMESPACE.sub("", str(child.tag)) in ("metadata", "style"):
                parent.remove(child)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    renamed = {str(old): f"{prefix}-{i}" for i, old in enumerate(dict.fromkeys(ids))}
    for element in root.iter():
        _make_local(element, renamed)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    return ElementTree.tostring(root, encoding="unicode")


def _make_local(element: ElementTree.Element, renamed: dict[str, str]) -> None:
    """Drop namespaces, shorten ids, and turn palette colours into CSS variables, in this element alone."""
    element.tag = _NAMESPACE.sub("", element.tag)
    attributes = {_NAMESPACE.sub("", name): value for name, value in element.attrib.items()}
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "id":
            if element.tag != "g":  # nothing refers to a group
                element.set("id", renamed[value])
        elif name == "href" or value.startswith("url(#"):
            element.set(name, _REFERENCE.sub(lambda found: "#" + renamed[found[1]], value))
        elif name == "style":
            value = _COLOUR.sub(lambda found: _VARIABLES[found[0]], value)
            element.set(name, _FONT.sub("inherit" if "font-family" in value else "system-ui, sans-serif", value))
        else:
            element.set(name, value)
