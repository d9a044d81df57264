"""ImageNet 2012 in tensorflow-datasets' form, prepared from the two archives without TensorFlow.

tensorflow-datasets' own `imagenet2012` reads the prepared files too: version, features, labels and
file names are the same. Pillow instead of TensorFlow converts the few pictures that are neither RGB
nor gray JPEGs.
"""

import io
import pathlib
import re
import tarfile
from collections.abc import Iterator

import tensorflow_datasets as tfds
from PIL import Image

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
INSTRUCTIONS = (
    f"register at https://image-net.org/download-images and put {TRAIN} and {VALIDATION} there"
)
Picture = tuple[str, io.BytesIO, str]  # file name, content, synset
_VALIDATION_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_LISTS = "datasets/imagenet2012"  # tensorflow-datasets' lists of synsets and validation labels


class Imagenet2012(tfds.core.GeneratorBasedBuilder):
    """`imagenet2012`: image JPEG of any size, label 0..999, file_name; train and validation."""

    VERSION = tfds.core.Version("5.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="ILSVRC 2012: photographs of the 1,000 classes of ImageNet's challenge.",
            homepage="https://image-net.org/",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(
                        names_file=tfds.core.tfds_path(f"{_LISTS}/labels.txt")
                    ),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict]]]:
        folder = pathlib.Path(dl_manager.manual_dir)
        return {
            tfds.Split.TRAIN: self._generate_examples(_train(folder / TRAIN)),
            tfds.Split.VALIDATION: self._generate_examples(_validation(folder / VALIDATION)),
        }

    def _generate_examples(self, pictures: Iterator[Picture]) -> Iterator[tuple[str, dict]]:
        for file_name, picture, synset in pictures:
            yield (
                file_name,
                {"image": _as_rgb_jpeg(picture), "label": synset, "file_name": file_name},
            )


def synsets() -> list[str]:
    """Returns the names of the 1,000 classes, WordNet's ids, in the order of their labels."""
    return tfds.core.tfds_path(f"{_LISTS}/labels.txt").read_text().split()


def _train(archive: pathlib.Path) -> Iterator[Picture]:
    """Yields the pictures of an archive of archives, one per synset."""
    for name, content in _members(tarfile.open(archive)):
        for file_name, picture in _members(tarfile.open(fileobj=content)):
            yield file_name, picture, pathlib.Path(name).stem


def _validation(archive: pathlib.Path) -> Iterator[Picture]:
    """Yields the pictures of one archive, whose labels are listed by the pictures' numbers."""
    listed = tfds.core.tfds_path(f"{_LISTS}/validation_labels.txt").read_text().split()
    for file_name, picture in _members(tarfile.open(archive)):
        name = pathlib.PurePosixPath(file_name).name  # archives that were made anew have folders
        number = _VALIDATION_NUMBER.fullmatch(name)
        if number is None or not 1 <= int(number[1]) <= len(listed):
            raise ValueError(
                f"{archive} has {file_name}; pictures are named ILSVRC2012_val_00000001.JPEG to "
                f"ILSVRC2012_val_000{len(listed)}.JPEG, as their numbers tell their labels"
            )
        yield name, picture, listed[int(number[1]) - 1]


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, io.BytesIO]]:
    """Yields the files of an archive and closes it at the end."""
    with archive:
        for member in archive:
            if member.isfile():
                content = archive.extractfile(member)
                assert content is not None  # a regular file has content
                yield member.name, io.BytesIO(content.read())


def _as_rgb_jpeg(picture: io.BytesIO) -> io.BytesIO:
    image = Image.open(picture)
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        picture = io.BytesIO()
        image.convert("RGB").save(picture, format="JPEG", quality=95)
    picture.seek(0)
    return picture
