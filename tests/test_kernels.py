import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas.batch_norm import batch_norm_known, batch_norm_train, group_count
from jaxnas.dense import dense_conv, dense_xla
from jaxnas.depthwise import depthwise_conv, depthwise_conv_of, depthwise_cudnn
from jaxnas.padding import sides


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def reference_conv(x, kernel, stride, padding=None):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (stride, stride),
        padding or [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def assert_is_the_reference(convolve, stride, x, w, reference=reference_conv):
    """In value and both gradients."""

    def results(function, dy):
        y, pull = jax.vjp(function, x, w)
        return y, *pull(dy)

    expect = functools.partial(reference, stride=stride)
    shape = jax.eval_shape(expect, x, w).shape
    dy = jnp.asarray(np.random.default_rng(9).normal(size=shape))
    # One program for both: compiled operation by operation, they would take twice the time.
    both = jax.jit(lambda dy: (results(convolve, dy), results(expect, dy)))
    for mine, theirs in zip(*both(dy), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
# The kernel gradient sums parts of a row, rows, and images at a time: (2, 60), (8, 8), (1, 2).
# On (1, 1) to (2, 3) most taps of a 7x7 kernel meet padding alone.
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2), (2, 60), (1, 1), (2, 2), (2, 3)])
def test_depthwise_equals_the_reference_in_value_and_gradient(kernel, stride, size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)))
    w = jnp.asarray(rng.normal(size=(kernel, kernel, 3)))
    assert_is_the_reference(lambda x, w: depthwise_conv(x, w, stride), stride, x, w)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
# Windows are multiplied up to outputs of (4, 4); (1, 1) to (2, 3) have taps of padding alone.
@pytest.mark.parametrize("size", [(9, 8), (7, 20), (4, 4), (1, 3), (1, 1), (2, 2), (8, 5)])
def test_dense_equals_the_reference_in_value_and_gradient(kernel, stride, size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)))
    w = jnp.asarray(rng.normal(size=(kernel, kernel, 3, 4)))
    assert_is_the_reference(
        lambda x, w: dense_conv(x, w, stride),
        stride,
        x,
        w,
        lambda x, w, stride: dense_xla(stride, "symmetric", x, w),
    )


@pytest.mark.parametrize("kernel", [3, 5, 7])
# Sizes as above, even and odd, of which SAME pads only the even ones as TensorFlow alone does.
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 2), (2, 60), (2, 3)])
def test_same_is_tensorflows_padding_in_value_and_gradient(kernel, size):
    rng = np.random.default_rng(6)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)))
    w = jnp.asarray(rng.normal(size=(kernel, kernel, 3)))
    same = functools.partial(reference_conv, padding="SAME")  # XLA's, which is TensorFlow's
    assert_is_the_reference(lambda x, w: depthwise_conv(x, w, 2, "same"), 2, x, w, same)
    assert_is_the_reference(lambda x, w: depthwise_cudnn(2, "same", x, w), 2, x, w, same)
    w = jnp.asarray(rng.normal(size=(kernel, kernel, 3, 4)))
    assert_is_the_reference(
        lambda x, w: dense_conv(x, w, 2, "same"),
        2,
        x,
        w,
        lambda x, w, stride: lax.conv_general_dilated(
            x, w, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
    )


def test_same_has_less_in_front_at_stride_2_and_even_sizes_alone():
    assert sides("same", (224, 225), 3, 2) == ((0, 1), (1, 1))
    assert sides("same", (224, 225), 5, 2) == ((1, 2), (2, 2))
    assert sides("same", (224, 225), 5, 1) == ((2, 2), (2, 2))
    assert sides("symmetric", (224, 225), 5, 2) == ((2, 2), (2, 2))


@pytest.mark.parametrize("stride", [1, 2])
def test_what_nvidia_gpus_get_equals_the_reference(stride):
    """Its formulas, on this machine's own convolutions."""
    rng = np.random.default_rng(3)
    x, w = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 7, 9, 3), (5, 5, 3)))
    assert_is_the_reference(lambda x, w: depthwise_cudnn(stride, "symmetric", x, w), stride, x, w)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_chosen_kernel_is_the_corner_of_the_padded_one(index, padding):
    sizes = (3, 7, 5)
    rng = np.random.default_rng(4)
    x, w = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 8, 8, 3), (7, 7, 3)))
    corner = w[: sizes[index], : sizes[index]]
    y, pull = jax.vjp(
        lambda x, w: depthwise_conv_of(sizes, 2, padding, x, w, jnp.int32(index)), x, w
    )
    reference = functools.partial(
        reference_conv, stride=2, padding="SAME" if padding == "same" else None
    )
    expected, expected_pull = jax.vjp(reference, x, corner)
    dy = jnp.asarray(rng.normal(size=expected.shape))
    np.testing.assert_allclose(y, expected, atol=1e-12)
    (dx, dw), (expected_dx, expected_dw) = pull(dy), expected_pull(dy)
    np.testing.assert_allclose(dx, expected_dx, atol=1e-12)
    rest = 7 - sizes[index]
    np.testing.assert_allclose(dw, np.pad(expected_dw, ((0, rest), (0, rest), (0, 0))), atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_with_known_statistics_is_the_one_that_computed_them(groups):
    rng = np.random.default_rng(5)
    x, scale, bias = (jnp.asarray(rng.normal(size=shape)) for shape in ((4, 3, 3, 6), 6, 6))
    (y, mean, variance), pull = jax.vjp(
        lambda *a: batch_norm_train(1e-3, groups, *a), x, scale, bias
    )
    known, known_pull = jax.vjp(
        lambda *a: batch_norm_known(1e-3, *a, mean, variance), x, scale, bias
    )
    np.testing.assert_array_equal(known, y)
    dy = jnp.asarray(rng.normal(size=y.shape))
    for mine, theirs in zip(known_pull(dy), pull((dy, mean, variance)), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_equals_the_formula_in_value_and_gradient(groups):
    rng = np.random.default_rng(1)
    x = jnp.asarray(5 + 3 * rng.normal(size=(4, 3, 3, 6)), jnp.float32)
    scale, bias = (jnp.asarray(rng.normal(size=6), jnp.float32) for _ in range(2))

    def formula(x, scale, bias):
        parts = [
            (part - jnp.mean(part, (0, 1, 2))) / jnp.sqrt(jnp.var(part, (0, 1, 2)) + 1e-3)
            for part in jnp.split(x, groups)
        ]
        return jnp.concatenate(parts) * scale + bias

    wide = [a.astype(jnp.float64) for a in (x, scale, bias)]
    expected, expected_pull = jax.vjp(formula, *wide)
    (y, mean, variance), pull = jax.vjp(
        lambda *a: batch_norm_train(1e-3, groups, *a), x, scale, bias
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for group, part in enumerate(jnp.split(wide[0], groups)):
        np.testing.assert_allclose(mean[group], jnp.mean(part, (0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(variance[group], jnp.var(part, (0, 1, 2)), rtol=1e-5)
    dy = jnp.asarray(rng.normal(size=expected.shape))
    zeros = jnp.zeros((groups, 6), jnp.float32)
    for mine, theirs in zip(
        pull((dy.astype(jnp.float32), zeros, zeros)), expected_pull(dy), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_batch_norm_far_from_zero_keeps_its_variance():
    x = jnp.asarray(1e4 + np.random.default_rng(0).normal(size=(64, 4)), jnp.float32)
    _, _, variance = batch_norm_train(
        1e-3, 1, x, jnp.ones(4, jnp.float32), jnp.zeros(4, jnp.float32)
    )
    np.testing.assert_allclose(variance[0], np.var(np.asarray(x, np.float64), 0), rtol=1e-3)


@pytest.mark.parametrize(
    ("batch", "group", "count"),
    [(64, 64, 1), (32, 64, 1), (256, 64, 4), (100, 64, 1), (200, 64, 2)],
)
def test_a_batch_is_divided_into_equal_groups_of_at_least_the_given_size(batch, group, count):
    assert group_count(batch, group) == count
