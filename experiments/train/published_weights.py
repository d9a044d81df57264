"""Networks of the space with published weights, with these weights and fitted to a data set."""

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np

from jaxnas import data, pretrained
from jaxnas.network import Network, NetworkSpec
from jaxnas.reconstruction import Examples, fit_classifier, reconstruct

EXAMPLES = 1024  # that a linear layer is fitted to, at most
_BATCH = 64


def with_published_weights(
    spec: NetworkSpec,
    part: data.Part,
    image_size: int,
    seed: int,
    tick: Callable[[float], None] = lambda done: None,
) -> Network:
    """Returns a network that computes nearly what EfficientNet-Lite0 does on a part's examples.

    Its linear layer is fitted to the examples, or is the published one for ImageNet's classes.

    Args:
      spec: EfficientNet-Lite0, or a network of the space `efficientnet_lite`.
      part: examples, of which some are drawn.
      image_size: size of the images in px.
      seed: seed of the draw.
      tick: called with the fraction done.

    Raises:
      ValueError: the weights are not installed.
      UnreadablePicture: an example cannot be read.
    """
    examples = drawn_examples(part, image_size, seed)
    source = pretrained.pretrained(spec.num_classes, seed)
    network = Network(spec, rng=np.random.default_rng(seed))
    reconstruct(network, source, examples[0], tick)
    if spec.num_classes != pretrained.NUM_CLASSES:
        fit_classifier(network, *examples)
    return network


def drawn_examples(part: data.Part, image_size: int, seed: int) -> Examples:
    """Returns at most EXAMPLES examples of a part in a drawn order, as in an evaluation.

    Raises:
      UnreadablePicture: an example cannot be read.
    """
    order = np.random.default_rng(seed).permutation(part.indices)[:EXAMPLES]
    batches = data.evaluation_batches(
        dataclasses.replace(part, indices=order), batch_size=_BATCH, image_size=image_size
    )
    with contextlib.closing(batches):
        kept = [
            (batch["image"][batch["mask"] > 0], batch["label"][batch["mask"] > 0])
            for batch in batches
        ]
    images, labels = map(np.concatenate, zip(*kept, strict=True))
    return images, labels
