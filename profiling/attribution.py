"""Attributes the steps of a compiled OpenVINO network to the layers of its ONNX network.

OpenVINO decomposes, fuses and renames layers: a convolution with bias becomes
`name/WithoutBiases`, its clip and the residual add are fused into it, and conversions of layout
and precision are inserted. The runtime model of the compiled network records the layers fused into
a step (`originalLayersNames`), the order of execution (`execOrder`) and the edges between steps.
CPU and GPU provide one; the NPU's contains only inputs and outputs. See
openvino/runtime/exec_model_info.hpp.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping

import onnx

from jaxnas.openvino_package import openvino
from profiling.measurement import LayerTime

# Counters are whole microseconds, rounded down. Half a microsecond is the mean error, and it keeps
# a step that is too short for the counter above 0.
HALF_STEP_MS = 0.0005


class Attribution:
    """Maps the steps of one compiled network to layers; a layer is an ONNX node.

    A layer's name is that of the ONNX node, or of its first output if the node has no name.
    """

    def __init__(self, model: onnx.ModelProto, runtime: openvino.Model):
        """Indexes the layers and steps by name.

        Args:
          model: the ONNX network.
          runtime: result of `CompiledModel.get_runtime_model()`.
        """
        self._layers: dict[str, str] = {}
        for node in model.graph.node:
            layer = node.name or node.output[0]
            for name in (layer, *filter(None, node.output)):
                self._layers.setdefault(name, layer)
        self._steps = {node.get_friendly_name(): node for node in runtime.get_ordered_ops()}

    def layers(self, counters: Mapping[str, float]) -> tuple[LayerTime, ...]:
        """Returns the layers in order of execution; the time of each step is counted once.

        A step belongs to the layer it is named after. A step named after none (a conversion, or a
        renamed step) belongs to the layer it feeds, else to the layer that feeds it, else to the
        layer of the next step, else to that of the last step with a layer. If no step has a layer,
        all time goes to one entry with the name of the last step.

        Args:
          counters: milliseconds by name of the executed steps, from `InferRequest.profiling_info`.
        """
        # The GPU sorts counters by name. Steps not in the runtime model keep their order, in front.
        names = sorted(counters, key=self._execution_order)
        found = [self._own(name) or self._nearest(name) for name in names]
        owner = next(filter(None, reversed(found)), names[-1] if names else "")
        owners = []  # from the last step to the first
        for layer in reversed(found):
            owner = layer or owner
            owners.append(owner)
        ms: collections.defaultdict[str, float] = collections.defaultdict(float)
        for name, owner in zip(names, reversed(owners), strict=True):
            ms[owner] += counters[name] + HALF_STEP_MS
        return tuple(LayerTime(layer, time) for layer, time in ms.items())

    def _execution_order(self, name: str) -> int:
        step = self._steps.get(_bare(name))
        return int(_information(step, "execOrder") or 0) if step else 0

    def _own(self, name: str) -> str | None:
        """Returns the layer that a step is named after, else the first one fused into it."""
        step = self._steps.get(_bare(name))
        fused = _information(step, "originalLayersNames").split(",") if step else []
        for candidate in (name, _bare(name), *fused):
            # Suffixes that OpenVINO's ONNX frontend and the NPU's compiler append.
            stem = candidate.split("?")[0].removesuffix("/WithoutBiases")
            if stem in self._layers:
                return self._layers[stem]
        return None

    def _nearest(self, name: str) -> str | None:
        """Returns the nearest layer that a step feeds, else the nearest that feeds it."""
        for neighbors in (_consumers, _producers):
            for step in _breadth_first(self._steps.get(_bare(name)), neighbors):
                layer = self._own(step.get_friendly_name())
                if layer is not None:
                    return layer
        return None


def _bare(name: str) -> str:
    """Returns a step's name without the GPU's type prefix, as in `reorder:name`."""
    return name.partition(":")[2] or name


def _information(step: openvino.Node, key: str) -> str:
    """Returns an entry of a step's runtime information, empty if it has none."""
    entries = step.get_rt_info()
    return entries[key].astype(str) if key in entries else ""


def _consumers(step: openvino.Node) -> Iterator[openvino.Node]:
    return (target.get_node() for output in step.outputs() for target in output.get_target_inputs())


def _producers(step: openvino.Node) -> Iterator[openvino.Node]:
    return (value.get_node() for value in step.input_values())


def _breadth_first(
    start: openvino.Node | None,
    neighbors: Callable[[openvino.Node], Iterable[openvino.Node]],
) -> Iterator[openvino.Node]:
    """Yields the steps reachable from `start` by distance, without `start`."""
    queue = collections.deque([start] if start else [])
    seen = {start.get_friendly_name()} if start else set()
    while queue:
        for step in neighbors(queue.popleft()):
            if step.get_friendly_name() not in seen:
                seen.add(step.get_friendly_name())
                queue.append(step)
                yield step
