"""Devices that run networks: the same scores whichever runs them."""

import numpy as np
import pytest

from jaxnas import export
from jaxnas.builtin_spaces import PROXYLESS_TINY
from jaxnas.network import Network, network_of
from jaxnas.onnxruntime_package import onnxruntime
from profiling.device import Options
from profiling.errors import CompileError
from profiling.myriad import stick
from profiling.myriad.stick import batched
from profiling.openvino_device import OpenVinoDevice
from profiling.recording_device import Recording
from profiling.registry import executor_name

COUNT = 40  # more than run at once


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network's folder, pictures of its size, and ONNX Runtime's scores for them."""
    space, folder = PROXYLESS_TINY, tmp_path_factory.mktemp("network")
    rng = np.random.default_rng(5)
    network = Network(network_of(space, space.arch(space.random_path(rng)), 10), rng=rng)
    export.save(export.to_onnx(network, 64), folder / "model.onnx", folder / "model.xml")
    images = rng.integers(0, 256, (COUNT, 3, 64, 64), np.uint8)
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    expected = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    return folder, images, expected


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_openvino_s_cpu_gives_onnx_runtime_s_scores(files, name):
    folder, images, expected = files
    with OpenVinoDevice("CPU", Options(), "f32") as device:
        scores = device.scores(folder / name, iter(images))
    assert scores.dtype == np.float32 and scores.shape == (COUNT, 10)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(expected, 0).max() > 1e-3  # pictures differ in them


def test_a_stick_s_worker_gives_onnx_runtime_s_scores(files, myriad, monkeypatch, tmp_path):
    """The CPU plugin of the stick's OpenVINO runs at most two pictures a request."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder, images, expected = files
    monkeypatch.setattr(stick, "_BATCH_BYTES", 2 * images[0].nbytes)
    with stick.Stick("CPU", Options()) as device:
        np.testing.assert_allclose(
            device.scores(folder / "model.onnx", iter(images)), expected, atol=1e-4
        )
        with pytest.raises(CompileError, match="accepts only ONNX files; give the network's .onnx"):
            device.scores(folder / "model.xml", iter(images))


def test_what_records_runs_networks_too(files):
    folder, images, expected = files
    with Recording(OpenVinoDevice("CPU", Options(), "f32"), store=None) as device:
        np.testing.assert_allclose(
            device.scores(folder / "model.xml", iter(images)), expected, atol=1e-5
        )


def test_a_stick_s_worker_takes_no_halves(files, myriad, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder, images, _ = files
    with (
        stick.Stick("CPU", Options()) as device,
        pytest.raises(CompileError, match="takes float16 values"),
    ):
        device.scores(folder / "model.onnx", iter(images.astype(np.float16)))


def test_a_file_that_is_none_is_refused(files, tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with (
        OpenVinoDevice("CPU", Options()) as device,
        pytest.raises(CompileError, match="CPU refuses .*noise.onnx"),
    ):
        device.scores(tmp_path / "noise.onnx", iter(files[1]))


def test_the_compiler_runs_nothing():
    for name in ("MYRIADX_COMPILER", "MYRIAD,MYRIADX_COMPILER", "CPU,GPU"):
        with pytest.raises(ValueError, match=f"--device={name}: give one device that runs networ"):
            executor_name(name)
    assert executor_name("GPU.1") == "GPU.1"


def test_batches_are_bounded_and_whole():
    images = list(np.arange(10, dtype=np.uint8).reshape(5, 2))
    assert [batch.tolist() for batch in batched(images, 4)] == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9]],
    ]
    assert [len(batch) for batch in batched(images, 1)] == [1] * 5
    assert list(batched([], 4)) == []
