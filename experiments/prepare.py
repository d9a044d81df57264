"""Prepares a data set for search and train, or says which of its sources are missing.

    python -m experiments.prepare --dataset=imagenet2012 --data_dir=/data

A folder of pictures needs no preparation; the program decodes every picture to check it.
"""

import sys
from collections.abc import Sequence

from absl import flags

from experiments.runs.picture_check import decode_all
from jaxnas import data
from profiling import command
from profiling.progress import Progress


def main(argv: Sequence[str]) -> int:
    """Prepares the data set of --dataset; returns the exit status."""
    del argv
    args = flags.FLAGS
    with command.usage_errors():
        if args.dataset is None:
            raise ValueError(
                f"--dataset: name one of {', '.join(data.SPECS)}, another set of "
                f"tensorflow-datasets, or a folder of pictures"
            )
        name = data.make(args.dataset, args.data_dir)
        parts = data.load(name, args.data_dir, seed=0, held_out=0)
    with Progress() as progress:
        refusals = (
            decode_all(name, sum(map(len, parts)), progress)
            if data.is_folder(name)
            else check(parts, progress)
        )
    for line in refusals:
        print(f"error: {line}", file=sys.stderr)
    if refusals:
        print(f"{len(refusals)} pictures cannot be decoded", file=sys.stderr)
        return command.FAILED
    spec = parts.test.spec
    print(
        f"{spec.name}: {spec.num_classes} classes, {len(parts.weights)} examples in "
        f"{spec.train_split}, {len(parts.test)} in {spec.test_split}"
    )
    if name != args.dataset:
        print(f"search and train accept it as --dataset={name}")
    return 0


def check(parts: data.Parts, progress: Progress) -> list[str]:
    """Decodes every image of a prepared set; returns an error message for each failure."""
    refusals: list[str] = []
    done, total = 0, sum(map(len, parts))
    with progress.phase("check", total) as phase:
        for part in parts:
            for index in range(len(part)):
                try:
                    example = part[index]
                    with part.records.decoding(example["record"]):
                        example["image"].load()
                except data.UnreadablePicture as error:
                    refusals.append(str(error))
                done += 1
                if done % 100 == 0:
                    phase.update(done, f"{part!r}, {len(refusals)} cannot be decoded")
        phase.end(f"{total - len(refusals)} of {total} pictures can be decoded")
    return refusals


if __name__ == "__main__":
    flags.DEFINE_string(
        "dataset",
        None,
        f"Data set: {', '.join(data.SPECS)}; another of "
        f"tensorflow-datasets, such as imagenette/320px-v2; or a folder of "
        f"pictures, train/CLASS/*.jpg and test/CLASS/*.jpg.",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the prepared data sets; unset is the default of tensorflow-datasets "
        "($TFDS_DATA_DIR or ~/tensorflow_datasets).",
    )
    command.run(main)
