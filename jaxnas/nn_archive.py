"""NN Archive: a MyriadX executable with its description, in the format that OAK cameras load.

The format is Luxonis's: a `.tar.xz` of `config.json` (schema of the package luxonis-ml, version
1.0) and the blob. depthai 3 uses the description to feed the camera's frames and read the classes.
"""

import io
import json
import pathlib
import tarfile
from collections.abc import Sequence

from jaxnas.export import INPUT, OUTPUT

_BLOB = "model.blob"


def save_archive(
    file: pathlib.Path, name: str, blob: bytes, class_names: Sequence[str], image_size: int
) -> None:
    """Writes an NN Archive of a classifier.

    Args:
      file: archive to write; ends in `.tar.xz`.
      name: name of the network.
      blob: executable compiled with uint8 input [1, 3, image_size, image_size] and float16 output
        [1, classes], with as many CMX slices as SHAVEs.
      class_names: names in the order of the logits.
      image_size: side of the input in px.
    """
    config = {
        "config_version": "1.0",
        "model": {
            "metadata": {"name": name, "path": _BLOB, "precision": "float16"},
            "inputs": [
                {
                    "name": INPUT,
                    "dtype": "uint8",
                    "input_type": "image",
                    "layout": "NCHW",
                    "shape": [1, 3, image_size, image_size],
                    # The camera's node does not apply these and need not: the network takes pixels.
                    "preprocessing": {"mean": [0, 0, 0], "scale": [1, 1, 1], "dai_type": "RGB888p"},
                }
            ],
            "outputs": [
                {"name": OUTPUT, "dtype": "float16", "layout": "NC", "shape": [1, len(class_names)]}
            ],
            "heads": [
                {
                    "parser": "ClassificationParser",
                    "outputs": [OUTPUT],
                    "metadata": {
                        "classes": list(class_names),
                        "n_classes": len(class_names),
                        "is_softmax": False,
                    },
                }
            ],
        },
    }
    partial = file.with_name(f"{file.name}.partial")
    with tarfile.open(partial, "w:xz") as archive:
        for member, content in (
            ("config.json", json.dumps(config, indent=1).encode()),
            (_BLOB, blob),
        ):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    partial.replace(file)
