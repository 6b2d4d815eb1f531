"""The kernels that misbehave, and the CUDA kernels on the processor, as others' tests have them."""

# Fixtures, found by their names.
from tests.gpu_aead.conftest import compiled, one  # noqa: F401
from tests.worker.conftest import kernels, registry  # noqa: F401
