"""Reads the compiler's stage graph into a networkx graph.

The graph is nearly Graphviz DOT, but its groups separate nodes with commas, and names in labels are
not escaped. Statements always have the same layout, one attribute per line, so one regular
expression per kind of statement reads them.
"""

import re

import networkx as nx

_HEAD = re.compile(r"digraph \w+ \{\n(?: {4}\w+=.*\n)*")
_STATEMENT = re.compile(
    r' {4}(?P<node>\w+) \[\n(?: {8}(?!label=)\w+=.*\n)* {8}label="(?P<label>.*)"\n {4}\];\n'
    r"| {4}(?P<tail>\w+) -> (?P<head>\w+) \[\n(?: {8}\w+=.*\n)* {4}\];\n"
    r"| {4}\{\n {8}rank=same;\n(?: {8}.*\n)* {4}\}\n"
)
_END = re.compile(r"\}\s*\Z")
_DATA = "data_"


def read_graph(graph_text: str) -> nx.MultiDiGraph:
    """Returns the stage graph; each node has the attribute `label`, a text of several lines.

    Edges from data to data are left out: that one datum is a part of another has no effect on time.

    Raises:
      ValueError: the text is not a stage graph of the compiler.
    """
    graph = nx.MultiDiGraph()
    found = _HEAD.match(graph_text)
    position = 0
    while found is not None:
        position = found.end()
        fields = found.groupdict()
        if fields.get("node"):
            # `\l` ends a left-justified line.
            graph.add_node(fields["node"], label=fields["label"].replace("\\l", "\n"))
        elif fields.get("tail") and not (
            fields["tail"].startswith(_DATA) and fields["head"].startswith(_DATA)
        ):
            graph.add_edge(fields["tail"], fields["head"])
        found = _STATEMENT.match(graph_text, position)
    if position == 0 or not _END.match(graph_text, position):
        raise ValueError(
            f"expected the compiler's stage graph in DOT, not "
            f"{graph_text[position : position + 100]!r}"
        )
    return graph
