"""Networks drawn as on the poster, for a page."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from experiments.pages.figures import inline
from experiments.runs.networks import Architecture
from experiments.runs.published_figures import PUBLISHED, REFERENCES
from jaxnas import network_figure
from jaxnas.network import NetworkSpec
from jaxnas.zoo import find_network

LEGEND = (
    "Green is a kernel of 3×3, orange 5×5, red 7×7; a wide block has a large expansion; white "
    "layers are fixed; hatched blocks have a dense convolution."
)


def run_drawing(result: Mapping[str, Any]) -> Element:
    """Returns the network of a result.json with the reference networks under it."""
    num_classes = result["num_classes"]
    own = Architecture(result["architecture"], result["space"]).spec(num_classes)
    captions = [f"this network{_latency(result['device_ms'])}"]
    for name in REFERENCES:
        reference = result["references"].get(name, {"device_ms": None})
        captions.append(f"{PUBLISHED[name].title}{_latency(reference['device_ms'])}")
    specs = [own, *(find_network(name, num_classes) for name in REFERENCES)]
    return drawing(specs, captions)


def drawing(specs: Sequence[NetworkSpec], captions: Sequence[str]) -> Element:
    """Returns a drawing of networks, a row for each."""
    figure = network_figure.figure(list(specs), list(captions))
    return inline(figure, "networks", LEGEND)


def _latency(value_ms: float | None) -> str:
    return "" if value_ms is None else f", {value_ms:.2f} ms"
