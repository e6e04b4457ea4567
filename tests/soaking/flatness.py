"""Whether a row of samples is flat: by the medians of its windows and by a line through all of it.
Pure."""

from dataclasses import dataclass
from statistics import linear_regression, mean, median

WINDOWS = 10


def growth_max_percent(minutes):
    """How much a soak of this length may grow. Ten minutes are over while the allocator still takes
    its last steps: they show a leak of megabytes, and only the hour that there is none."""
    return 2.0 if minutes >= 20 else 5.0


@dataclass(frozen=True)
class Flatness:
    """Growth from the first window to the last, and of the line from end to end, in per cent."""

    windows: tuple
    window_percent: float
    line_percent: float

    def is_flat(self, most_percent):
        return max(self.window_percent, self.line_percent) <= most_percent


def flatness(samples):
    """Judges (seconds, value) pairs. A median shrugs off the peaks of a sawtooth; the line weighs
    what lies between the first window and the last."""
    if len(samples) < 3 * WINDOWS:
        raise ValueError(f"{len(samples)} samples are too few")
    begin, end = samples[0][0], samples[-1][0]
    parts = [[] for _ in range(WINDOWS)]
    for second, value in samples:
        index = int((second - begin) / (end - begin) * WINDOWS)
        parts[min(index, WINDOWS - 1)].append(value)
    if not all(parts):
        raise ValueError("a window without samples")
    windows = tuple(median(part) for part in parts)
    seconds, values = zip(*samples)
    slope = linear_regression(seconds, values).slope
    return Flatness(
        windows,
        (windows[-1] / windows[0] - 1) * 100,
        slope * (end - begin) / mean(values) * 100,
    )
