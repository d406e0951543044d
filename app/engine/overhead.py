"""What the gateway itself adds to a request, as an estimate that is rarely too small."""

GAIN_MEAN = 1 / 16
GAIN_DEVIATION = 1 / 8
DEVIATIONS = 2.0


class Overhead:
    """Smoothed mean plus twice the smoothed mean deviation, in seconds.

    The estimator of TCP's retransmission timer (V. Jacobson, "Congestion avoidance and control",
    1988; RFC 6298, section 2), with a slower mean.
    """

    def __init__(self, first_s: float) -> None:
        self._mean_s = first_s
        self._deviation_s = first_s / 4

    @property
    def value_s(self) -> float:
        """Seconds to reckon with."""
        return self._mean_s + DEVIATIONS * self._deviation_s

    def observe(self, measured_s: float) -> None:
        """Take in one request's overhead."""
        error_s = measured_s - self._mean_s
        self._mean_s += GAIN_MEAN * error_s
        self._deviation_s += GAIN_DEVIATION * (abs(error_s) - self._deviation_s)
