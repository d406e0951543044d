"""The environment variables of a process that opens artifacts: what runtimes need, and no secret.

What is not named here stays with the parent, so a secret is kept back whatever it is called.
"""

from collections.abc import Mapping

NAMES = frozenset(
    {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD"}
)
PREFIXES = (
    "LC_", "PYTHON", "MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NVPL_", "BLIS_",
    "TBB_", "ORT_", "ONNX", "OPENVINO_", "OV_", "CUDA_", "CUDNN_", "NVIDIA_", "TOKENIZERS_",
)  # fmt: skip
"""Where the interpreter, the allocator, threads, linear algebra and runtimes look for settings."""


def for_child(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that such a process gets."""
    return {
        name: value
        for name, value in environment.items()
        if name in NAMES or name.startswith(PREFIXES)
    }
