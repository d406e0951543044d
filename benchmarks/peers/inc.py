"""Intel Neural Compressor's static quantisation with its defaults, run in its own environment.

python inc.py SOURCE.onnx ROWS.npz TARGET.onnx
"""

import sys

import numpy as np
from onnx_neural_compressor.data_reader import CalibrationDataReader
from onnx_neural_compressor.quantization import config, quantize

BATCH = 32


class Rows(CalibrationDataReader):
    """Calibration batches."""

    def __init__(self, path):
        with np.load(path) as archive:
            self.rows = {name: archive[name] for name in archive.files}
        self.rewind()

    def get_next(self):
        count = len(next(iter(self.rows.values())))
        if self.at >= count:
            return None
        start, self.at = self.at, self.at + BATCH
        return {name: tensor[start : self.at] for name, tensor in self.rows.items()}

    def rewind(self):
        self.at = 0


if __name__ == "__main__":
    source, rows, target = sys.argv[1:]
    quantize(source, target, config.StaticQuantConfig(calibration_data_reader=Rows(rows)))
