"""Check that a network and its exported files compute the same."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
from flax import nnx

from jaxnas.export import INPUT, OUTPUT
from jaxnas.network import Network
from jaxnas.onnxruntime_package import onnxruntime
from jaxnas.openvino_package import openvino
from jaxnas.pixels import from_pixels


@dataclasses.dataclass(frozen=True)
class Parity:
    """Comparison of JAX's logits with ONNX Runtime's and OpenVINO's (CPU, float32), same images."""

    images: int
    onnxruntime_max_abs: float
    openvino_max_abs: float
    same_top1: bool
    largest_logit: float

    @property
    def holds(self) -> bool:
        """True if all logits agree within 1e-4, and all images have the same top-1.

        The bound is relative to the largest logit where that is above 1: networks whose activations
        have no upper bound, as RepVGG's, have logits of tens.
        """
        bound = 1e-4 * max(1.0, self.largest_logit)
        return self.same_top1 and max(self.onnxruntime_max_abs, self.openvino_max_abs) < bound


def compare(
    network: Network, onnx_path: pathlib.Path, xml_path: pathlib.Path, pixels: np.ndarray
) -> Parity:
    """Compares the written files with the network in evaluation mode, all in float32.

    Args:
      pixels: uint8 [count, size, size, 3] of the exported size.
    """
    network.eval()
    graph, state = nnx.split(network)
    expected = np.asarray(_float32_logits(graph, state, pixels))
    session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(xml_path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    batches = np.ascontiguousarray(np.moveaxis(pixels, -1, 1)[:, None])
    runtime = np.concatenate([session.run([OUTPUT], {INPUT: x})[0] for x in batches])
    device = np.concatenate([compiled(x)[OUTPUT] for x in batches])
    tops = [logits.argmax(-1) for logits in (expected, runtime, device)]
    return Parity(
        len(pixels),
        float(abs(runtime - expected).max()),
        float(abs(device - expected).max()),
        bool((tops[0] == tops[1]).all() and (tops[0] == tops[2]).all()),
        float(abs(expected).max()),
    )


@functools.partial(jax.jit, static_argnums=0)
def _float32_logits(graph: nnx.GraphDef, state: nnx.State, pixels: jax.Array) -> jax.Array:
    # By default accelerators multiply in TF32 or bfloat16.
    with jax.default_matmul_precision("float32"):
        network = nnx.merge(graph, state)
        return network(from_pixels(pixels, normalization=network.spec.normalization))
