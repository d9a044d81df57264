"""Latency table and pictures of a search in the form in which the official code takes them."""

import collections
import contextlib
import importlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import grain
import numpy as np

from experiments.search.config import Config
from jaxnas import data
from jaxnas.latency import LatencyTable
from jaxnas.pixels import SCALED
from jaxnas.space import Space

TEST_BATCH = 250


class OfficialTable:
    """A latency table as the official code reads it: by a layer's kind and channels.

    Blocks of equal channels have their mean, which is exact for paths that choose the same
    candidate in all of them.
    """

    def __init__(self, space: Space, table: LatencyTable):
        """Stores the entries by kind and channels."""
        fixed_ms = table.fixed_ms
        self._fixed_ms = {
            "Conv": sum(fixed_ms[part] for part in ("host", "input", "stem")),
            "Conv_1": fixed_ms["head"],
            "Logits": sum(fixed_ms[part] for part in ("pool", "classifier", "output")),
        }
        entries = collections.defaultdict(list)
        key = (space.stem_channels, space.first_channels, space.first.kernel, space.first.expansion)
        entries[key].append(fixed_ms["first"])
        for block, row in zip(space.blocks, table.candidate_ms, strict=True):
            for candidate, ms in zip(space.convolutions, row[:-1], strict=True):
                shape = (block.in_channels, block.out_channels)
                entries[*shape, candidate.kernel, candidate.expansion].append(ms)
        self._block_ms = {key: float(np.mean(ms)) for key, ms in entries.items()}

    def predict(
        self,
        kind: str,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        expand: int | None = None,
        kernel: int | None = None,
        stride: int | None = None,
        idskip: int | None = None,
    ) -> float:
        """Returns the latency of a layer in ms; arguments are named as the official code has them.

        It has 224 px at deployment built in, as the sizes in the shapes, which are not read.
        """
        del stride, idskip  # the channels tell
        if kind != "expanded_conv":
            return self._fixed_ms[kind]
        assert kernel is not None and expand is not None
        return self._block_ms[input_shape[-1], output_shape[-1], kernel, expand]


class Training:
    """Batches of the weights; an epoch continues after the previous one.

    A batch is images, float32 [batch, 3, size, size] as our networks have them, and labels.
    """

    def __init__(self, part: data.Part, config: Config, epoch_steps: int):
        self._batches, self._epoch_steps = _batches(part, config, config.batch_size), epoch_steps

    def __len__(self) -> int:
        return self._epoch_steps

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return (_tensors(next(self._batches)) for _ in range(self._epoch_steps))

    def close(self) -> None:
        """Ends the threads or processes that make batches."""
        self._batches.close()


class HeldOut:
    """Held-out pictures, as `Training` has them: endless batches for α, or every picture once.

    The official code says which by the sampler's `drop_last`.
    """

    def __init__(self, part: data.Part, config: Config):
        self._part, self._image_size = part, config.search_image_size
        self._batches = _batches(part, config, config.alpha_batch_size)
        self.batch_sampler = SimpleNamespace(batch_size=TEST_BATCH, drop_last=False)

    def __len__(self) -> int:
        return -(-len(self._part) // TEST_BATCH)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return map(_tensors, self._batches if self.batch_sampler.drop_last else self._all())

    def _all(self) -> Iterator[data.Batch]:
        batches = data.evaluation_batches(
            self._part, batch_size=TEST_BATCH, image_size=self._image_size
        )
        with contextlib.closing(batches):
            yield from batches

    def close(self) -> None:
        """Ends the threads or processes that make batches."""
        self._batches.close()


def _batches(part: data.Part, config: Config, batch_size: int) -> grain.DatasetIterator[data.Batch]:
    return data.batches(
        part,
        batch_size=batch_size,
        image_size=config.search_image_size,
        seed=config.seed,
        start_step=0,
        workers=config.data_workers,
    )


def _tensors(batch: data.Batch) -> tuple[Any, Any]:
    """Returns images and labels, without those that only fill an evaluation's last batch."""
    torch = importlib.import_module("torch")
    real = batch.get("mask", np.ones(len(batch["label"]))) > 0
    images = torch.from_numpy(batch["image"][real]).permute(0, 3, 1, 2)  # channels last in memory
    return images.float() / SCALED.scale, torch.from_numpy(batch["label"][real]).long()
