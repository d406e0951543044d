"""How far a change moves a model's answers, measured on calibration rows."""

from typing import TYPE_CHECKING

from compressors.bench import Bench

if TYPE_CHECKING:
    from torch import Tensor, nn

ROWS = 256


def example(bench: Bench, rows: int = 2) -> "tuple[Tensor, ...]":
    """So many calibration rows of each input, in the order of the inputs."""
    import torch

    return tuple(torch.from_numpy(bench.data.calibration[t.name][:rows]) for t in bench.spec.inputs)


class Gauge:
    """The answers of a model, to hold those of a changed one against."""

    def __init__(self, model: "nn.Module", bench: Bench) -> None:
        self._bench = bench
        self._inputs = example(bench, ROWS)
        self._before = self._answers(model)

    def divergence(self, changed: "nn.Module") -> float:
        """Mean of KL(before ‖ after) over the rows, in nats.

        Source: S. Kullback and R. A. Leibler, "On information and sufficiency" (1951).
        """
        from torch.nn import functional

        return float(
            functional.kl_div(
                self._answers(changed), self._before, reduction="batchmean", log_target=True
            )
        )

    def note(self, technique: str, layer: str, harm: float) -> None:
        """Keep a layer's sensitivity for the report."""
        self._bench.note_sensitivity(layer, f"{technique}_divergence_nats", harm)

    def _answers(self, model: "nn.Module") -> "Tensor":
        import torch

        with torch.no_grad():
            return torch.log_softmax(model.eval()(*self._inputs), dim=-1)
