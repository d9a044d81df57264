"""Data sets: specifications, preparation, disjoint parts and batches.

A run loads the parts once and draws batches that depend only on (seed, part, step)::

    parts = data.load("digits", data_dir=None, seed=0)
    train = data.batches(parts.weights, batch_size=64, image_size=48, seed=0, start_step=step)
    held_out = data.batches(parts.alpha, batch_size=64, image_size=48, seed=0)
    for batch in data.evaluation_batches(parts.test, batch_size=64, image_size=48): ...
"""

from jaxnas.data.folder import fingerprint, is_folder, undecodable
from jaxnas.data.parts import Part, Parts, load
from jaxnas.data.pictures import UnreadablePicture
from jaxnas.data.pipeline import Batch, batches, evaluation_batches
from jaxnas.data.prepare import DatasetNotPrepared, dataset, make, prepare
from jaxnas.data.specs import SPECS, DatasetSpec

__all__ = [
    "SPECS",
    "Batch",
    "DatasetNotPrepared",
    "DatasetSpec",
    "Part",
    "Parts",
    "UnreadablePicture",
    "batches",
    "dataset",
    "evaluation_batches",
    "fingerprint",
    "is_folder",
    "load",
    "make",
    "prepare",
    "undecodable",
]
