"""Worker processes that make batches, where the threads of one interpreter are too slow."""

import multiprocessing
import os
import pathlib
import signal
import threading

import grain

_AHEAD = 2  # batches that each worker keeps ready
_SHARED_MEMORY = pathlib.Path("/dev/shm")  # on Linux


def in_processes(steps: grain.MapDataset, workers: int, batch_bytes: int) -> grain.IterDataset:
    """Returns the batches of a pipeline in their order, for any number of processes.

    Worker i makes the batches i, i + workers, … and passes them through shared memory. grain reads
    its own flags here, so absl's flags must have been parsed.

    Args:
      steps: pipeline of batches; every worker receives a pickled copy of its description.
      workers: number of processes, 1 or more.
      batch_bytes: size of one batch in bytes.

    Raises:
      OSError: the batches of all workers need more shared memory than is free.
    """
    needed = workers * (_AHEAD + 1) * batch_bytes
    if _SHARED_MEMORY.exists():
        status = os.statvfs(_SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize
        # A worker that exceeds it is killed without a message.
        if needed > free:
            raise OSError(
                f"batches of {workers} workers take {needed / 1e6:.0f} MB of shared "
                f"memory, and {_SHARED_MEMORY} has {free / 1e6:.0f} MB left; give fewer "
                f"--data_workers, or give the container more (docker run --shm-size)"
            )
    alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
    return steps.to_iter_dataset(alone).mp_prefetch(options, worker_init_fn=_begin)


def _begin(index: int, count: int) -> None:
    """Makes a worker ignore signals, which the program handles, and end when the program ends.

    A scheduler or a terminal sends signals to all processes, but a program that is asked to stop
    may need one more batch; it closes its workers itself. Before this call, in a worker's first
    seconds, signals end the worker.
    """
    del index, count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_program, daemon=True).start()


def _end_with_program() -> None:
    program = multiprocessing.parent_process()
    assert program is not None  # this is a worker
    program.join()
    os._exit(1)
