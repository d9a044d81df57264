"""What the processes of a run tell each other. All of them must ask, in the same order."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Tree = Any  # nested dicts of arrays
Json = TypeVar("Json")


class ProcessesDiffer(RuntimeError):
    """The processes of a run do not agree in what must be the same; the message names them."""


class Process0Failed(RuntimeError):
    """Process 0 could not do what the others wait for; the message is its own."""


def is_process_0() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def from_process_0(work: Callable[[], Json]) -> Json:
    """What `work` gives in process 0, which alone does it; in JSON's types.

    Raises:
      Process0Failed: in the others, where `work` raised; in process 0, what it raised.
    """
    if jax.process_count() == 1:
        return work()
    told, failure = None, None
    if is_process_0():
        try:
            told = {"value": work()}
        except (Exception, SystemExit) as error:
            told, failure = {"error": f"{type(error).__name__}: {error}"}, error
    told = json.loads(_broadcast(json.dumps(told).encode()))
    if failure is not None:
        raise failure
    if "error" in told:
        raise Process0Failed(f"process 0 failed: {told['error']}")
    return told["value"]


def _broadcast(content: bytes) -> bytes:
    """Process 0's bytes."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    buffer = np.zeros(size, np.uint8)
    if is_process_0():
        buffer[:] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(buffer).astype(np.uint8).tobytes()


def any_across_processes(*facts: bool) -> tuple[bool, ...]:
    """Of each fact, whether it holds in any process."""
    if jax.process_count() == 1:
        return facts
    return tuple(multihost_utils.process_allgather(np.array(facts)).any(axis=0).tolist())


def check_same(what: str, tree: Tree) -> None:
    """Sees that all processes have the same arrays, to the bit.

    Args:
      what: they are, in words.
      tree: of arrays that this process has whole.

    Raises:
      ProcessesDiffer: naming those that have others than process 0.
    """
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    digests = multihost_utils.process_allgather(np.frombuffer(digest.digest(), np.uint8))
    others = [index for index, one in enumerate(digests) if (one != digests[0]).any()]
    if others:
        raise ProcessesDiffer(
            f"{what}: process {', '.join(map(str, others))} has another than process 0; see that "
            f"all have the same files, versions and flags"
        )
