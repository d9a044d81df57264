"""Event files hold what metrics.jsonl does, after a resumption too."""

import pathlib
import struct
import time

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments.runs.config import RunConfig
from experiments.runs.run_folder import Workdir
from tests.conftest import metrics_of


def run_config(folder: pathlib.Path) -> RunConfig:
    return RunConfig(
        device="CPU",
        shaves=None,
        threads=None,
        worker_prefix=None,
        store=None,
        workdir=str(folder),
        tensorboard=True,
    )


def masked(crc: int) -> int:
    """Returns a checksum as TFRecord files hold it."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def scalars(folder: pathlib.Path) -> dict[tuple[str, int], float]:
    """Returns value by tag and step of the files of a folder, read as TensorBoard does.

    A file that starts at a step takes back what earlier files hold of that step and later ones.
    """
    values: dict[tuple[str, int], float] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content = file.read_bytes()
        while content:
            (length, crc) = struct.unpack("<QI", content[:12])
            record = content[12 : 12 + length]
            assert masked(crc32c(content[:8])) == crc
            assert masked(crc32c(record)) == struct.unpack("<I", content[12 + length :][:4])[0]
            content = content[16 + length :]
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                values = {key: v for key, v in values.items() if key[1] < event.step}
            for one in event.summary.value:
                values[one.tag, event.step] = one.simple_value
    return values


def expected(folder: pathlib.Path) -> dict[tuple[str, int], float]:
    return {
        (f"{line['phase']}/{name}", line["step"]): pytest.approx(value)
        for line in metrics_of(folder)
        for name, value in line.items()
        if isinstance(value, float)
    }


def test_event_files_follow_a_run_that_is_stopped(tmp_path):
    config = run_config(tmp_path / "run")
    with Workdir(config) as workdir:
        workdir.open_metrics(0)
        for step in (10, 20, 30):
            workdir.log(step, "search", ce=1 / step, entropy=2.0, probabilities=[[0.5, 0.5]])
    assert len(scalars(workdir.path / "tensorboard")) == 6
    time.sleep(1.1)  # files are named by the second, and a program takes longer to start
    with Workdir(config) as workdir:
        workdir.open_metrics(20)  # the checkpoint was of this step
        workdir.log(30, "search", ce=7.0)
        workdir.log(34, "evaluate", epoch=1, held_out_top1=0.9)
        workdir.open_metrics(34)  # as where the network's training begins
        workdir.log(40, "train", ce=3.0)
    found = scalars(workdir.path / "tensorboard")
    assert found == expected(workdir.path)
    assert found["search/ce", 30] == 7.0 and ("search/entropy", 30) not in found


def test_a_run_may_start_and_stop_writing_them(tmp_path):
    config = run_config(tmp_path / "run")
    assert "tensorboard" not in config.identity()
