"""Reads the compiler's Graphviz DOT with pydot into a networkx graph, fast enough."""

import functools
import importlib.util
import re
import warnings

import networkx as nx
from pyparsing import ParseException, ParserElement

# Dropped before parsing. `rank=same` groups list nodes with commas, which is no DOT; allocation
# edges (a part of one datum in another) and labels of edges say nothing about time.
_UNUSED = re.compile(
    r"^ +(?:shape|style|fillcolor|labelloc|labeljust)=\S+\n"
    r"|^    \{\n +rank=same;\n[^}]*\}\n"
    r"|^    data_\w+ -> data_\w+ \[\n(?:        .*\n)*    \];\n",
    re.MULTILINE,
)
_EDGE_ATTRIBUTES = re.compile(r"^(    \w+ -> \w+) \[\n(?:        .*\n)*    \];\n", re.MULTILINE)


def read_graph(graph_text: str) -> nx.MultiDiGraph:
    """Returns a stage graph; its nodes have the attribute `label`, its edges none.

    Raises:
      ValueError: the text is not the DOT that the compiler writes.
    """
    text = _EDGE_ATTRIBUTES.sub(r"\1;\n", _UNUSED.sub("", graph_text))
    try:
        graphs = _grammar().parse_string(text, parse_all=True)
    except ParseException as error:
        raise ValueError(
            f"expected the compiler's stage graph in DOT, not {graph_text[:100]!r}: {error}"
        ) from error
    return nx.nx_pydot.from_pydot(graphs[0])


@functools.cache
def _grammar() -> ParserElement:
    """Returns pydot's grammar without comments, from an instance of pydot's module of our own.

    The compiler writes no comments, and looking for one before every token is three quarters of
    the time that pydot takes: 6.4 s for MobileNetV2's graph with it, 1.6 s without.
    """
    with warnings.catch_warnings():
        # pydot 4.0 calls pyparsing 3.3 by names that it deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        spec = importlib.util.find_spec("pydot.dot_parser")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    grammar = module.GraphParser.parser
    unseen, seen = [grammar], set()
    while unseen:
        element = unseen.pop()
        if id(element) not in seen:
            seen.add(id(element))
            element.ignoreExprs = []
            unseen += getattr(element, "exprs", [])
            if getattr(element, "expr", None) is not None:
                unseen.append(element.expr)
    return grammar
