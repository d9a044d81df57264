"""Agreement between the processes of a run. All must call these functions, in the same order."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Tree = Any  # nested dicts of arrays
Value = TypeVar("Value")


class ProcessesDiffer(RuntimeError):
    """The processes of a run differ in what must be the same; the message names them."""


class Process0Failed(RuntimeError):
    """Process 0 failed at work that the others wait for; the message is that of process 0."""


def is_process_0() -> bool:
    """Returns whether this is process 0, the one that writes files."""
    return jax.process_index() == 0


def from_process_0(work: Callable[[], Value]) -> Value:
    """Returns the result of `work`, which only process 0 calls; it must be of JSON types.

    Raises:
      Process0Failed: `work` raised; raised in the other processes, while process 0 raises the
        original error.
    """
    if jax.process_count() == 1:
        return work()
    answer: dict[str, Any] = {}
    failure: BaseException | None = None
    if is_process_0():
        try:
            answer = {"value": work()}
        except (Exception, SystemExit) as error:
            answer, failure = {"error": f"{type(error).__name__}: {error}"}, error
    answer = json.loads(_broadcast(json.dumps(answer).encode()))
    if failure is not None:
        raise failure
    if "error" in answer:
        raise Process0Failed(f"process 0 failed: {answer['error']}")
    return answer["value"]


def _broadcast(content: bytes) -> bytes:
    """Returns the bytes that process 0 passes."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    buffer = np.zeros(size, np.uint8)
    if is_process_0():
        buffer[:] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(buffer).astype(np.uint8).tobytes()


def any_across_processes(*facts: bool) -> tuple[bool, ...]:
    """Returns the logical OR of each fact across processes."""
    if jax.process_count() == 1:
        return facts
    return tuple(multihost_utils.process_allgather(np.array(facts)).any(axis=0).tolist())


def check_same(what: str, tree: Tree) -> None:
    """Checks that all processes have the same arrays, bit for bit.

    Args:
      what: name of the arrays in the error message.
      tree: tree of arrays that this process holds completely.

    Raises:
      ProcessesDiffer: arrays differ; the message names the processes that differ from process 0.
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
            f"{what}: not the same in process {', '.join(map(str, others))} as in process 0; make "
            f"sure that all have the same files, versions and flags"
        )
