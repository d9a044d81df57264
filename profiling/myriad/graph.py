"""Reads the compiler's stage graph, which is nearly Graphviz DOT, into a networkx graph.

Nearly: its groups list nodes with commas, and names stand in labels unescaped. Statements are
always laid out in the same way, one attribute a line, so that a pattern for each kind reads them.
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
    """Returns a stage graph; its nodes have the attribute `label`, in lines, its edges none.

    Without edges from data to data: a part of one datum in another says nothing about time.

    Raises:
      ValueError: the text is not what the compiler writes.
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
