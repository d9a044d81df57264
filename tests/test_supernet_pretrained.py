"""The supernet with published weights, on photographs."""

import jax
import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import load_sample_images

from jaxnas import pretrained, sampling, supernet, supernet_pretrained
from jaxnas.builtin_spaces import EFFICIENTNET_LITE, PROXYLESS
from jaxnas.network import network_of
from jaxnas.pixels import from_pixels
from jaxnas.zoo import find_network
from tests.conftest import same_bits

SPACE = EFFICIENTNET_LITE
PUBLISHED = "k3e6 k3e6 k5e6 k5e6 k3e6 k3e6 k3e6 k5e6 k5e6 k5e6 k5e6 k5e6 k5e6 k5e6 k3e6"


def path(text: str) -> np.ndarray:
    return SPACE.path(SPACE.parse(text))


@pytest.fixture(scope="module")
def weights():
    return supernet_pretrained.init(SPACE, 1000, seed=0)


@pytest.fixture(scope="module")
def published():
    return pretrained.pretrained(1000)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    """Two photographs of 64 px: two rows and columns are left for the last blocks."""
    pixels = np.stack([image[101:421:5, 208:528:5] for image in load_sample_images().images])
    return from_pixels(pixels, normalization=SPACE.normalization)


@pytest.fixture(scope="module")
def logits(weights, images):
    """The logits of a path with running statistics, by the supernet's own program."""

    @jax.jit
    def apply(params, stats, path):
        active = (supernet.gather(SPACE, tree, path) for tree in (params, stats))
        return supernet.apply(SPACE, *active, path, images, group=None)[0]

    return lambda text: np.asarray(apply(*weights, path(text)))


def test_the_published_network_is_in_the_space():
    spec = find_network("efficientnet_lite0")
    assert network_of(SPACE, SPACE.parse(PUBLISHED), 1000, spec.name) == spec


def test_the_published_path_is_the_published_network(weights, published, images, logits):
    extracted = supernet.extract(SPACE, *weights, path(PUBLISHED), 1000, "efficientnet_lite0")
    assert same_bits(nnx.state(extracted), nnx.state(published))
    published.eval()
    graph, state = nnx.split(published)
    expected = np.asarray(jax.jit(lambda state: nnx.merge(graph, state)(images))(state))
    assert expected.std() > 1
    np.testing.assert_allclose(logits(PUBLISHED), expected, atol=1e-3)


def test_larger_kernels_are_the_same_function(logits):
    for larger in (" ".join(["k7e6"] * 15), PUBLISHED.replace("k3", "k5")):
        np.testing.assert_allclose(logits(larger), logits(PUBLISHED), atol=1e-3)


def test_smaller_candidates_have_the_middle_and_the_channels_that_matter(weights, published):
    block = published.blocks[3]  # block02, k5e6 of 24 to 40 channels
    other = supernet.extract(SPACE, *weights, path(PUBLISHED.replace("k5e6", "k3e3", 1)), 1000)
    small = other.blocks[3]
    assert str(other.spec.blocks[3].expansion) == "3"
    importance = np.linalg.norm(block.project.kernel[...], axis=1) * abs(block.depthwise.scale[...])
    kept = np.flatnonzero(importance >= np.sort(importance)[72])  # of 144
    for mine, theirs in (
        (small.expand.kernel, block.expand.kernel[...][:, kept]),
        (small.depthwise.kernel, block.depthwise.kernel[...][1:4, 1:4, kept]),
        (small.depthwise.variance, block.depthwise.variance[...][kept]),
        (small.project.kernel, block.project.kernel[...][kept]),
        (small.project.bias, block.project.bias[...]),
    ):
        np.testing.assert_array_equal(mine[...], theirs)


def test_smaller_candidates_come_nearer_to_what_the_published_ones_do(published):
    """Fitted to some pictures and seen on others; the published path stays as it is."""
    pictures = np.concatenate(
        [
            image[row : row + 192 : 3, column : column + 192 : 3][None]
            for image in load_sample_images().images
            for row in range(0, 232, 58)
            for column in range(0, 448, 64)
        ]
    )
    order = np.random.default_rng(0).permutation(len(pictures))
    seen, others = (
        pictures[order[:32]],
        from_pixels(pictures[order[32:]], normalization=SPACE.normalization),
    )
    labels = np.arange(32, dtype=np.int32) % 2
    fitted = supernet_pretrained.init(SPACE, 2, 0, (seen, labels))
    taken_over = supernet_pretrained.init(SPACE, 2, 0)

    def features(weights, text):
        network = supernet.extract(SPACE, *weights, path(text), 2)
        network.eval()
        return np.asarray(network.features(from_pixels(others, normalization=SPACE.normalization)))

    wanted = features(taken_over, PUBLISHED)
    np.testing.assert_array_equal(features(fitted, PUBLISHED), wanted)
    for text in (PUBLISHED.replace("k5e6", "k3e3"), PUBLISHED.replace("k3e6", "k3e3")):
        mine, theirs = (np.square(features(w, text) - wanted).mean() for w in (fitted, taken_over))
        assert mine < 0.8 * theirs


def test_alpha_starts_with_the_published_choices():
    alpha = supernet_pretrained.prior(SPACE)
    p = np.asarray(sampling.probabilities(alpha, SPACE.allowed))
    np.testing.assert_allclose(p[np.arange(15), path(PUBLISHED)], 0.5, rtol=1e-6)
    np.testing.assert_allclose(p[0, :6].sum(), 1, rtol=1e-6)  # the first block may not be skipped
    assert p[1, 6] == pytest.approx(1 / 12)


def test_refuses_a_space_without_published_weights():
    with pytest.raises(ValueError, match="proxyless has no published weights; give --space=effici"):
        supernet_pretrained.check_space(PROXYLESS)
