import jax
import numpy as np
import pytest
from flax import nnx

from jaxnas import zoo
from jaxnas.network import Network, count_macs, count_parameters


@pytest.mark.parametrize(
    ("name", "parameters", "macs_m"),
    [
        ("mobilenet_v2", 3_504_872, 300.77),
        ("proxyless_mobile", 4_080_512, 320.43),
        ("proxyless_cpu", 4_361_648, 439.24),
        ("proxyless_gpu", 7_119_848, 465.26),
        ("proxyless_mobile_14", 6_857_568, 580.88),
    ],
)
def test_published_counts(name, parameters, macs_m):
    spec = zoo.find_network(name)
    assert count_parameters(spec) == parameters
    assert count_macs(spec, 224) / 1e6 == pytest.approx(macs_m, abs=0.005)


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_module_has_as_many_parameters_as_counted(name):
    spec = zoo.find_network(name)
    network = Network(spec, rng=np.random.default_rng(0))
    assert sum(p.size for p in jax.tree.leaves(nnx.state(network, nnx.Param))) == (
        count_parameters(spec)
    )


def test_unknown_network_names_those_there_are():
    with pytest.raises(ValueError, match="'resnet', allowed are mobilenet_v2"):
        zoo.find_network("resnet")


def test_initialisation_has_the_published_variance():
    network = Network(zoo.find_network("mobilenet_v2"), rng=np.random.default_rng(0))
    last = network.blocks[-1]
    assert np.std(last.expand.kernel[...]) == pytest.approx((2 / 960) ** 0.5, rel=0.02)
    assert np.std(last.depthwise.kernel[...]) == pytest.approx((2 / 9) ** 0.5, rel=0.03)
    assert np.std(network.stem.kernel[...]) == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.1)
