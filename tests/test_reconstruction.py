"""Smaller networks that compute nearly what a trained one does."""

import jax
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import LogisticRegression

from jaxnas import reconstruction
from jaxnas.network import Network, network_of
from jaxnas.pixels import from_pixels
from tests.conftest import NUM_CLASSES, same_bits
from tests.kinds import KINDS

SPACE = KINDS["mbconv"].space  # three blocks with kernels 3 and 5, expansions 2 and 3, and skip
LARGEST = "k5e3 k5e3 k5e3"


def network(text: str, seed: int = 0) -> Network:
    spec = network_of(SPACE, SPACE.parse(text), NUM_CLASSES)
    return Network(spec, rng=np.random.default_rng(seed))


@pytest.fixture
def source() -> Network:
    """A network with statistics, scales and biases that are not the initial ones."""
    made, rng = network(LARGEST), np.random.default_rng(1)
    state = nnx.state(made)
    nnx.update(made, jax.tree.map(lambda x: x + rng.uniform(0, 0.2, x.shape).astype("f"), state))
    made.eval()
    return made


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (40, 16, 16, 3), np.uint8)


def features(network: Network, pictures: np.ndarray) -> np.ndarray:
    network.eval()
    return np.asarray(network.features(from_pixels(pictures)))


def test_the_same_network_gets_the_same_bits(source, pictures):
    made = network(LARGEST, 3)
    reconstruction.reconstruct(made, source, pictures)
    assert same_bits(nnx.state(made), nnx.state(source))


@pytest.mark.parametrize("text", ["k3e2 k5e2 k3e3", "k5e3 - k3e2", "- k3e2 k5e2"])
def test_a_smaller_network_is_nearer_to_the_trained_one_on_other_pictures(text, source, pictures):
    fitted, taken_over = network(text), network(text)
    reconstruction.reconstruct(fitted, source, pictures[:32])
    for block in taken_over.blocks:
        theirs = next(one for one in source.blocks if one.spec.name == block.spec.name)
        reconstruction.adapt(block, theirs)
    for part in ("stem", "classifier"):
        nnx.update(getattr(taken_over, part), nnx.state(getattr(source, part)))
    wanted = features(source, pictures[32:])
    fitted_error, error = (
        np.square(features(made, pictures[32:]) - wanted).mean() for made in (fitted, taken_over)
    )
    assert fitted_error < 0.5 * error


def test_what_a_smaller_block_can_compute_it_does(source, pictures):
    """The channels that are dropped are projected to nothing here, kernels have borders of 0."""
    for block in source.blocks[1:]:
        depthwise, project = block.layer("depthwise"), block.layer("project")
        kernel = np.array(depthwise.kernel[...])
        kernel[[0, -1]] = kernel[:, [0, -1]] = 0
        depthwise.kernel.set_value(kernel)
        kernel = np.array(project.kernel[...])
        kernel[1::3] = 0
        project.kernel.set_value(kernel)
    small = network("k3e2 k3e2 k3e2")
    reconstruction.reconstruct(small, source, pictures[:32])
    np.testing.assert_allclose(
        features(small, pictures[32:]), features(source, pictures[32:]), atol=1e-4
    )


def test_a_projection_is_the_least_squares_solution(source, monkeypatch):
    """Without the pull to the weights taken over, NumPy's own solution of all equations."""
    monkeypatch.setattr(reconstruction, "RIDGE", 0.0)
    rng, block = np.random.default_rng(4), network("k3e2 - -").blocks[1]
    block.eval()
    theirs = source.blocks[1]
    reconstruction.adapt(block, theirs)
    x, target = (rng.normal(size=(16, 8, 8, 4)).astype("f") for _ in range(2))
    reconstruction.fit_block(block, theirs, x, x, target)
    hidden = np.asarray(block.layer("depthwise")(block.layer("expand")(x))).reshape(-1, 8)
    equations = np.concatenate([hidden, np.ones((len(hidden), 1))], 1)
    wanted = (target - x).reshape(-1, 4)
    expected = equations @ np.linalg.lstsq(equations, wanted)[0]
    got = np.asarray(block.layer("project")(hidden.reshape(16, 8, 8, 8))).reshape(-1, 4)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_classifier_is_logistic_regression(source, pictures):
    labels = np.random.default_rng(5).integers(0, NUM_CLASSES, len(pictures)).astype(np.int32)
    reconstruction.fit_classifier(source, pictures, labels)
    given = features(source, pictures)
    model = LogisticRegression(C=1 / 32, tol=1e-8, max_iter=1000).fit(given, labels)
    mine = jax.nn.softmax(source.classifier.logits(given))
    np.testing.assert_allclose(mine, model.predict_proba(given), atol=1e-3)
