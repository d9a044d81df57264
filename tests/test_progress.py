"""The time left that a phase prints."""

import pytest

from profiling import progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The seconds that the clock shows, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_counts_down_within_a_long_unit(clock):
    """Three units of 100 s; the first update starts the clock of the estimate."""
    with progress.Progress(quiet=True) as shown, shown.phase("sweep", 3) as phase:
        left = {}
        for second, done in ((0, 0), (50, 0), (100, 1), (130, 1), (200, 2), (260, 2), (330, 2)):
            clock[0] = second
            phase.update(done)
            left[second] = phase._left()
    assert left == {
        0: "",
        50: "",
        100: "  about 3:20 left",
        130: "  about 2:50 left",
        200: "  about 1:40 left",
        260: "  about 0:40 left",
        330: "",
    }
