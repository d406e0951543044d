"""What ONNX Runtime's quantisers need before and leave behind."""

from importlib.util import find_spec
from pathlib import Path

from compressors.bench import Bench
from compressors.export import quiet


def prepare(source: Path, bench: Bench) -> Path:
    """A copy of the graph with shapes filled in and what can be fused fused, for a quantiser."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = bench.scratch / "prepared.onnx"
    with quiet():
        # Symbolic shapes need sympy, which comes with torch; ONNX's own inference does otherwise.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=not find_spec("sympy"))
    return prepared


def forget_domains(path: Path) -> None:
    """Drop the operator domains that a quantiser declares and no node uses."""
    import onnx

    model = onnx.load(path)
    used = {node.domain for node in model.graph.node} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, path)
