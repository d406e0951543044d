"""What the gateway itself adds to a request, as an estimate that is rarely too small."""

QUANTILE = 0.9
STEP = 0.05
SMALLEST_S = 20e-6


class Overhead:
    """The running 90th percentile, in seconds, in constant memory.

    Each measurement above the estimate raises it by 4.5 %, each below lowers it by 0.5 %, so that
    one tenth lies above. How far off a measurement is does not matter: a single stall says little
    about the next request. Source: Q. Ma, S. Muthukrishnan, M. Sandler, "Frugal streaming for
    estimating quantiles" (2013), with steps in proportion to the estimate.
    """

    def __init__(self, first_s: float) -> None:
        self.value_s = first_s

    def observe(self, measured_s: float) -> None:
        """Take in one request's overhead."""
        if measured_s > self.value_s:
            self.value_s *= 1 + STEP * QUANTILE
        else:
            self.value_s = max(SMALLEST_S, self.value_s * (1 - STEP * (1 - QUANTILE)))
