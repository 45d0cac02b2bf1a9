"""Progress of a load test, from snapshots alone."""

import io
import threading
from collections.abc import Callable

from pytest_commandbus.progress import Pace, PlainDisplay, Snapshot, Watch, make_display, pace, plain_line


def snapshot(
    done: int, at: float, created: int = 1000, parked: int = 0, skipped: float = 0, commands: int = 0
) -> Snapshot:
    return Snapshot(
        total=1000, created=created, done=done, parked=parked, commands=commands, seconds=at, skipped=skipped
    )


def test_while_nothing_is_done_the_pace_is_that_of_creation() -> None:
    assert pace(snapshot(0, 0, created=0), snapshot(0, 2, created=500)) == Pace(250, 0, None)


def test_the_pace_of_the_run_tells_what_remains() -> None:
    assert pace(snapshot(200, 2), snapshot(400, 3)) == Pace(200, 0, 3.0)


def test_a_standstill_has_no_end() -> None:
    assert pace(snapshot(200, 2), snapshot(200, 3)) == Pace(0, 0, None)
    assert pace(snapshot(200, 2), snapshot(200, 2)) == Pace(0, 0, None)


def test_before_the_first_process_is_done_the_commands_tell_that_something_moves() -> None:
    speed = pace(snapshot(0, 2), snapshot(0, 4, commands=3000))
    assert speed == Pace(0, 1500, None)
    assert plain_line("test_a", snapshot(0, 4), speed) == "test_a: 0 of 1,000 done (0 %), 1,500 commands/s"


def test_a_line_tells_count_percentage_rate_and_remaining_time() -> None:
    line = plain_line("test_a", snapshot(420, 4, parked=3, skipped=370), Pace(100, 0, 5.8))
    assert (
        line
        == "test_a: 420 of 1,000 done (42 %), 100 processes/s, 5.80 s left, 3 in troubleshooting, skipped 6 min 10 s"
    )


def test_a_line_of_creation_counts_what_is_created() -> None:
    line = plain_line("test_a", snapshot(0, 1, created=700), Pace(700, 0, None))
    assert line == "test_a: created 700 of 1,000, 700 processes/s"


def test_only_all_is_a_hundred_percent() -> None:
    assert snapshot(999, 1).percentage == 99
    assert snapshot(1000, 1).percentage == 100


def test_without_a_terminal_there_are_lines() -> None:
    assert isinstance(make_display(io.StringIO()), PlainDisplay)


class Recorder:
    """A display that keeps what it was shown and tells when it has enough."""

    interval = 0.001

    def __init__(self, enough: int) -> None:
        self.lines: list[str] = []
        self.closed = False
        self.full = threading.Event()
        self._enough = enough

    def show(self, name: str, snapshot: Snapshot, speed: Pace) -> None:
        self.lines.append(plain_line(name, snapshot, speed))
        if len(self.lines) == self._enough:
            self.full.set()

    def close(self) -> None:
        self.closed = True


def watched(look: Callable[[], Snapshot | None], enough: int) -> Recorder:
    recorder = Recorder(enough)
    watch = Watch("test_a", look, recorder)
    watch.start()
    assert recorder.full.wait(10)
    watch.stop()
    assert recorder.closed
    return recorder


def test_a_watch_shows_each_look_and_begins_anew_with_the_next_run() -> None:
    looks = iter([None, snapshot(100, 1), snapshot(300, 2), snapshot(50, 0.5)])
    recorder = watched(lambda: next(looks, None), enough=3)
    assert recorder.lines == [
        "test_a: 100 of 1,000 done (10 %), 100 processes/s, 9.00 s left",
        "test_a: 300 of 1,000 done (30 %), 150 processes/s, 4.67 s left",
        "test_a: 50 of 1,000 done (5 %), 100 processes/s, 9.50 s left",
    ]


def test_a_watch_that_fails_ends_quietly_and_takes_its_bar_away() -> None:
    looks = iter([snapshot(100, 1)])
    recorder = watched(lambda: next(looks), enough=1)
    assert recorder.lines == ["test_a: 100 of 1,000 done (10 %), 100 processes/s, 9.00 s left"]


def test_the_first_line_begins_on_a_line_of_its_own() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.show("a", snapshot(100, 1), Pace(9, 0, None))
    display.show("a", snapshot(200, 1), Pace(9, 0, None))
    assert stream.getvalue() == (
        "\ncommandbus: a: 100 of 1,000 done (10 %), 9 processes/s\n"
        "commandbus: a: 200 of 1,000 done (20 %), 9 processes/s\n"
    )


def test_lines_come_every_five_seconds_and_at_each_tenth() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    looks = [
        *(snapshot(0, 1, created=700), snapshot(0, 2), snapshot(0, 3), snapshot(0, 6), snapshot(0, 7)),
        *(snapshot(150, 8), snapshot(180, 9), snapshot(200, 10), snapshot(210, 14), snapshot(220, 15), snapshot(5, 1)),
    ]
    for look in looks:
        display.show("a", look, Pace(0, 0, None))
    told = [line.removeprefix("commandbus: a: ").split(" of ")[0] for line in stream.getvalue().split("\n")[1:-1]]
    assert told == ["created 700", "0", "0", "150", "200", "220", "5"]
