"""Which layer of an ONNX network each step of a compiled OpenVINO network belongs to.

OpenVINO decomposes, fuses and renames: a convolution with bias becomes `name/WithoutBiases`, its
clip and the residual add vanish into it, conversions between layouts and precisions are put in
between. The compiled network's runtime model knows what was fused into a step
(`originalLayersNames`), in which order steps run (`execOrder`) and what feeds what; CPU and GPU
give one, the NPU's holds inputs and outputs only. See openvino/runtime/exec_model_info.hpp.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping

import onnx
import openvino

from profiling.measurement import LayerTime

# Counters are whole microseconds, rounded down: half of one is what a step lacks on average, and
# keeps a step too short for the counter from being nothing.
HALF_STEP_MS = 0.0005


class Attribution:
    """The layers of one compiled network; a layer is an ONNX node, by name.

    An ONNX node without a name goes by the name of its first output.
    """

    def __init__(self, model: onnx.ModelProto, runtime: openvino.Model):
        """Args: the network as it was, and `CompiledModel.get_runtime_model()`."""
        self._layers: dict[str, str] = {}
        for node in model.graph.node:
            layer = node.name or node.output[0]
            for name in (layer, *filter(None, node.output)):
                self._layers.setdefault(name, layer)
        self._steps = {node.get_friendly_name(): node for node in runtime.get_ordered_ops()}

    def layers(self, counters: Mapping[str, float]) -> tuple[LayerTime, ...]:
        """Layers in order of execution; together they hold the time of every step, once.

        A step belongs to the layer it is named after; one that is named after none (a conversion,
        or what a rewriting renamed) to the layer it feeds, or else to the one that feeds it.
        Where nothing tells it is a layer by its own name.

        Args:
          counters: milliseconds by name of the steps executed, as `InferRequest.profiling_info`
            has them.
        """
        # The GPU lists its counters by name. Steps not in the runtime model stay as they are.
        names = sorted(counters, key=self._execution_order)
        owners = [self._own(name) or self._nearest(name) for name in names]
        known = [owner for owner in owners if owner]
        for index in reversed(range(len(names))):
            if owners[index] is None:
                following = owners[index + 1] if index + 1 < len(names) else None
                owners[index] = following or (known[-1] if known else names[index])
        ms = collections.defaultdict(float)
        for name, owner in zip(names, owners, strict=True):
            ms[owner] += counters[name] + HALF_STEP_MS
        return tuple(LayerTime(layer, time) for layer, time in ms.items())

    def _execution_order(self, name: str) -> int:
        step = self._steps.get(_bare(name))
        return int(_information(step, "execOrder") or 0) if step else 0

    def _own(self, name: str) -> str | None:
        """The layer that a step is named after, or the first that was fused into it."""
        step = self._steps.get(_bare(name))
        fused = _information(step, "originalLayersNames").split(",") if step else []
        for candidate in (name, _bare(name), *fused):
            # Suffixes of OpenVINO's reader of ONNX and of the NPU's compiler.
            stem = candidate.split("?")[0].removesuffix("/WithoutBiases")
            if stem in self._layers:
                return self._layers[stem]
        return None

    def _nearest(self, name: str) -> str | None:
        """The layer that a step feeds, or else the one that feeds it."""
        for neighbors in (_consumers, _producers):
            for step in _breadth_first(self._steps.get(_bare(name)), neighbors):
                layer = self._own(step.get_friendly_name())
                if layer is not None:
                    return layer
        return None


def _bare(name: str) -> str:
    """A step's name without the GPU's type in front, as in `reorder:name`."""
    return name.partition(":")[2] or name


def _information(step: openvino.Node, key: str) -> str:
    """An entry of the runtime model, empty where a step has none."""
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
    """Steps by distance from `start`, itself left out."""
    queue = collections.deque([start] if start else [])
    seen = {start.get_friendly_name()} if start else set()
    while queue:
        for step in neighbors(queue.popleft()):
            if step.get_friendly_name() not in seen:
                seen.add(step.get_friendly_name())
                queue.append(step)
                yield step
