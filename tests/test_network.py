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
        # As deployed, but for batch norm's second value of each channel: Ding et al. 2021 count
        # 8.30 M and 12.78 M, Vasu et al. 2023 2.1 M and 4.8 M with 275 M and 825 M MACs.
        ("repvgg_a0", 8_313_880, 1361.45),
        ("repvgg_a1", 12_795_432, 2363.97),
        ("mobileone_s0", 2_086_984, 275.11),
        ("mobileone_s1", 4_779_944, 825.06),
        ("resnet_18", 11_689_512, 1814.07),  # torchvision's
        ("efficientnet_lite0", 4_652_008, 385.19),  # 4.65 M published
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
