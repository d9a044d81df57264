"""Processes that make batches, where the threads of one interpreter are not enough."""

import multiprocessing
import os
import pathlib
import signal
import threading

import grain

_AHEAD = 2  # batches that each of them keeps ready
_SHARED_MEMORY = pathlib.Path("/dev/shm")  # as Linux has it


def in_processes(steps: grain.MapDataset, workers: int, batch_bytes: int) -> grain.IterDataset:
    """The batches of a pipeline in their order, whatever the number of processes.

    Worker i makes the batches i, i + workers, … They come through shared memory. grain reads flags
    of its own at this, so that absl's flags must have been parsed.

    Args:
      steps: a batch each; a description that can be pickled, which every worker gets.
      workers: 1 or more.
      batch_bytes: of one batch.

    Raises:
      OSError: there is not as much shared memory as the batches of all workers take.
    """
    needed = workers * (_AHEAD + 1) * batch_bytes
    if _SHARED_MEMORY.exists():
        status = os.statvfs(_SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize
        # A worker that writes beyond it is killed without a word.
        if needed > free:
            raise OSError(
                f"batches of {workers} workers take {needed / 1e6:.0f} MB of shared "
                f"memory, and {_SHARED_MEMORY} has {free / 1e6:.0f} MB left; give fewer "
                f"--data_workers, or a container more (docker run --shm-size)"
            )
    alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
    return steps.to_iter_dataset(alone).mp_prefetch(options, worker_init_fn=_begin)


def _begin(index: int, count: int) -> None:
    """Leaves signals to the program, which closes its workers, and ends where it is killed.

    A scheduler or a terminal sends them to every process there is, and a program that is asked to
    stop may need one more batch. Until here, in a worker's first seconds, they end it.
    """
    del index, count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_program, daemon=True).start()


def _end_with_the_program() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
