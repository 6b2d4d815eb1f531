"""Signal kernels. cuFFT documents no equal bits from run to run, so none are promised."""

from enclave_worker.kernels.blocks import COMPLEX, EXACT_FLOATS
from enclave_worker.kernels.spec import (
    Arrays,
    Namespace,
    Values,
    choice,
    flag,
    kernel,
)


@kernel(
    "signal.fft",
    summary="Discrete Fourier transform along the last axis, in the precision of the input.",
    types={"T": (*EXACT_FLOATS, *COMPLEX)},
    inputs={"x": "T[..., n]"},
    outputs={"y": "complex(T)[..., n]"},
    parameters=(
        flag("inverse", "transform back"),
        choice(
            "norm",
            "the direction divided by n, or √n both ways",
            choices=("backward", "ortho", "forward"),
        ),
    ),
)
def fft(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    """Use the library's transform: pocketfft or cuFFT."""
    transform = xp.fft.ifft if parameters["inverse"] else xp.fft.fft
    return {"y": transform(inputs["x"], norm=parameters["norm"])}
