"""Weights with which a smaller network computes nearly what a trained one does on given images.

A smaller block takes over the weights of the trained one as far as its size allows. Its projection
is then solved for by least squares (He, Zhang, Sun 2017, §3.2), block by block, so that each block
also makes up for what the blocks before it lack. No labels are needed. The running statistics are
kept, since normalization by the statistics of a few images costs accuracy: EfficientNet-Lite0 is
right on 85 % of 512 ImageNet pictures with its own statistics and on 79 % with those of the
pictures; a linear classifier of its features on 300 pictures of CIFAR-10 falls from 69 to 48 %.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from flax import nnx

from jaxnas import loss
from jaxnas.block import ConvBlock
from jaxnas.layers import BATCH_NORM_EPSILON, ConvBatchNorm
from jaxnas.network import Network
from jaxnas.pixels import from_pixels
from jaxnas.supernet_initialization import middle

Examples = tuple[np.ndarray, np.ndarray]  # images uint8 [n, size, size, 3], labels int32 [n]

FITTED_IMAGES = 256  # that blocks are fitted to; more add nothing but time
RIDGE = 0.1  # weight of the distance to the weights taken over, over a hidden channel's mean square
CLASSIFIER_DECAY = 16.0  # weight of the classifier's squared kernel, over the number of images
_BATCH = 32


def adapt(block: ConvBlock, source: ConvBlock) -> None:
    """Gives an MBConv the weights and statistics of one of other size, in place.

    A kernel smaller than the source's is its middle; a larger one has it in its middle and zeros
    around, which is the same function. A smaller width has the channels that matter most.
    """
    kept = _kept(block, source)
    for layer in source.spec.layers:
        old, new = source.layer(layer.part), block.layer(layer.part)
        kernel, into = old.kernel[...], np.zeros(new.kernel[...].shape, np.float32)
        channels: slice | np.ndarray = kept
        if layer.part == "project":
            channels, into = slice(None), kernel[kept]
        elif layer.part == "expand":
            into = kernel[:, kept]
        else:
            size = min(len(kernel), len(into))
            into[*middle(len(into), size)] = kernel[*middle(len(kernel), size)][..., kept]
        new.kernel.set_value(into)
        for name in ("scale", "bias", "mean", "variance"):
            getattr(new, name).set_value(getattr(old, name)[...][channels])


def fit_block(
    block: ConvBlock, source: ConvBlock, x: np.ndarray, source_x: np.ndarray, target: np.ndarray
) -> None:
    """Gives an MBConv the weights with which it comes nearest to a target, in place.

    The depthwise layer keeps the source's statistics, scaled as far as its outputs differ. The
    projection and its mean are solved for.

    Args:
      block: block with the weights of `adapt`.
      source: the trained block.
      x: its input, float32 [images, height, width, in].
      source_x: the source's input, of the same shape.
      target: wanted output, float32 [images, out height, out width, out].
    """
    kept = _kept(block, source)
    theirs_mean, theirs_variance = _moments(
        _mapped(lambda part: _depthwise_output(source, part), source_x)[..., kept]
    )
    mean, variance = _moments(_mapped(lambda part: _depthwise_output(block, part), x))
    layer = block.layer("depthwise")
    ratio = (variance + BATCH_NORM_EPSILON) / (theirs_variance + BATCH_NORM_EPSILON)
    variance = (np.asarray(layer.variance[...]) + BATCH_NORM_EPSILON) * ratio - BATCH_NORM_EPSILON
    mean += (layer.mean[...] - theirs_mean) * np.sqrt(ratio)
    layer.variance.set_value(np.maximum(variance, 0).astype(np.float32))
    layer.mean.set_value(mean.astype(np.float32))
    wanted = target - x if block.spec.shortcut else target
    hidden = _mapped(lambda part: layer(_expanded(block, part)), x)
    _solve_projection(block.layer("project"), hidden, wanted)


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the channels' means and variances, float64 [channels]."""
    axes = tuple(range(x.ndim - 1))
    return x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)


def _solve_projection(project: ConvBatchNorm, hidden: np.ndarray, wanted: np.ndarray) -> None:
    """Sets kernel and mean so that the layer's output of `hidden` comes nearest to `wanted`."""
    h, y = (part.reshape(-1, part.shape[-1]) for part in (hidden, wanted))
    scale = np.asarray(project.scale[...]) / np.sqrt(project.variance[...] + BATCH_NORM_EPSILON)
    before = project.kernel[...] * scale
    h_mean, y_mean = h.mean(0), y.mean(0)
    h, y = h - h_mean, y - y_mean
    gram = (h.T @ h / len(h)).astype(np.float64)
    ridge = RIDGE * np.trace(gram) / len(gram) + 1e-12
    kernel = np.linalg.solve(gram + ridge * np.eye(len(gram)), h.T @ y / len(h) + ridge * before)
    shift = np.asarray(project.bias[...]) - (y_mean - h_mean @ kernel)
    used = np.abs(scale) > 1e-6  # the others' outputs are their bias, whatever the kernel
    safe = np.where(used, scale, 1)
    project.kernel.set_value(np.where(used, kernel / safe, project.kernel[...]).astype(np.float32))
    project.mean.set_value(np.where(used, shift / safe, project.mean[...]).astype(np.float32))


def reconstruct(
    network: Network,
    source: Network,
    images: np.ndarray,
    tick: Callable[[float], None] = lambda done: None,
) -> None:
    """Gives a network the weights with which it computes nearly what a trained one does, in place.

    Args:
      network: network whose blocks are the source's of the same names, some of them smaller and
        some left out where shapes stay.
      source: the trained network.
      images: uint8 [images, size, size, 3], of which FITTED_IMAGES are used.
      tick: called with the fraction done.
    """
    network.eval()
    source.eval()
    blocks = {block.spec.name: block for block in network.blocks}
    nnx.update(network.stem, nnx.state(source.stem))
    nnx.update(network.classifier, nnx.state(source.classifier))
    source_x = x = stem_outputs(source, images[:FITTED_IMAGES])
    for index, theirs in enumerate(source.blocks):
        target = block_outputs(theirs, source_x)
        if theirs.spec.name in blocks:
            mine = blocks[theirs.spec.name]
            adapt(mine, theirs)
            if x is source_x and is_same_function(mine, theirs):
                source_x = x = target
            else:
                fit_block(mine, theirs, x, source_x, target)
                source_x, x = target, block_outputs(mine, x)
        else:
            source_x = target  # the next block makes up for it
        tick((index + 1) / len(source.blocks))


def stem_outputs(network: Network, images: np.ndarray) -> np.ndarray:
    """Returns the first block's inputs, float32 [n, ...], for images uint8 [n, size, size, 3]."""
    normalization = network.spec.normalization
    return _mapped(
        lambda part: network.stem(from_pixels(part, normalization=normalization)), images
    )


def block_outputs(block: ConvBlock, x: np.ndarray) -> np.ndarray:
    """Returns a block's outputs, float32 [images, ...], in evaluation."""
    return _mapped(block, x)


def is_same_function(block: ConvBlock, source: ConvBlock) -> bool:
    """Returns whether `adapt` makes a block the same function as its source."""
    mine, theirs = block.spec, source.spec
    return mine.kernel >= theirs.kernel and mine.expansion == theirs.expansion


def fit_classifier(network: Network, images: np.ndarray, labels: np.ndarray) -> None:
    """Fits the linear layer to images by logistic regression on the network's features, in place.

    Args:
      network: network with trained weights before its linear layer.
      images: uint8 [images, size, size, 3].
      labels: int32 [images].
    """
    network.eval()
    normalization = network.spec.normalization
    features = jnp.asarray(
        _mapped(
            lambda part: network.features(from_pixels(part, normalization=normalization)), images
        )
    )
    classifier = network.classifier
    shape = classifier.kernel[...].shape
    targets = jnp.asarray(labels)

    def objective(weights: jax.Array) -> jax.Array:
        kernel, bias = weights[: -shape[1]].reshape(shape), weights[-shape[1] :]
        ce = loss.cross_entropy(features @ kernel + bias, targets)
        return ce + CLASSIFIER_DECAY / len(labels) * jnp.sum(jnp.square(kernel))

    slope = jax.jit(jax.value_and_grad(objective))
    weights = scipy.optimize.minimize(
        lambda weights: [np.float64(part) for part in slope(jnp.float32(weights))],
        np.zeros(math.prod(shape) + shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 200},
    ).x.astype(np.float32)
    classifier.kernel.set_value(weights[: -shape[1]].reshape(shape))
    classifier.bias.set_value(weights[-shape[1] :])


def _kept(block: ConvBlock, source: ConvBlock) -> np.ndarray:
    """Returns the source's inner channels that a block of this width has, ascending.

    They are those that add most to the output: by the norm of their projection, times the deviation
    of what is projected before activation.
    """
    norms = np.linalg.norm(source.layer("project").kernel[...], axis=1)
    importance = norms * np.abs(source.layer("depthwise").scale[...])
    width = len(block.layer("project").kernel[...])
    return np.sort(np.argsort(-importance, kind="stable")[:width])


def _expanded(block: ConvBlock, x: jax.Array) -> jax.Array:
    return block.layer("expand")(x) if block.spec.expansion > 1 else x


def _depthwise_output(block: ConvBlock, x: jax.Array) -> jax.Array:
    """Returns the depthwise convolution before its normalization."""
    layer = block.layer("depthwise")
    return layer.convolve(None, _expanded(block, x), layer.kernel[...])


def _mapped(function: Callable[[jax.Array], jax.Array], x: np.ndarray) -> np.ndarray:
    """Returns the outputs of a function that is applied to batches of x.

    The batches are of one size, each of which would be compiled.
    """
    count = -(-len(x) // _BATCH)
    size = -(-len(x) // count)
    padded = np.pad(x, [(0, count * size - len(x)), *[(0, 0)] * (x.ndim - 1)])
    batches = np.split(padded, count)
    return np.concatenate([np.asarray(function(jnp.asarray(batch))) for batch in batches])[: len(x)]
