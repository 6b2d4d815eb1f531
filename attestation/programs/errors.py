"""What can be wrong with a program, each with its own code."""

from attestation.errors import ProgramError


class UnknownKernelError(ProgramError):
    """The catalogue has no kernel of that name. `enclave kernels` lists those it has."""

    code = "unknown-kernel"


class ShapeMismatchError(ProgramError):
    """A tensor's shape does not fit the kernel's pattern. The message shows both."""

    code = "shape-mismatch"


class DtypeMismatchError(ProgramError):
    """A tensor's dtype is not one that the kernel takes. Convert it before you submit."""

    code = "dtype-mismatch"


class EmptyTensorError(ProgramError):
    """A tensor has a dimension of zero. No kernel computes on nothing; leave the job out."""

    code = "tensor-empty"


class OutputTooLargeError(ProgramError):
    """A kernel would make a tensor larger than the format carries. Split the work."""

    code = "output-too-large"


class InputMissingError(ProgramError):
    """A kernel or program was given no tensor for one of its inputs."""

    code = "input-missing"


class InputUnknownError(ProgramError):
    """A tensor was given for an input that the kernel or program does not have."""

    code = "input-unknown"


class InputUnusedError(ProgramError):
    """No step reads a declared input. Take it out: sealing and sending it costs and says more."""

    code = "input-unused"


class ParameterUnknownError(ProgramError):
    """A value was given for a parameter that the kernel does not have."""

    code = "parameter-unknown"


class ParameterMissingError(ProgramError):
    """A parameter without a default was given no value."""

    code = "parameter-missing"


class ParameterTypeError(ProgramError):
    """A parameter's value is of another kind than the kernel declares."""

    code = "parameter-type"


class ParameterOutOfRangeError(ProgramError):
    """A parameter's value is outside what the kernel allows. The message names the bounds."""

    code = "parameter-out-of-range"


class RuleBrokenError(ProgramError):
    """Sizes and parameters break a rule of the kernel, such as `k <= n`. The message names it."""

    code = "rule-broken"


class ReferenceUnknownError(ProgramError):
    """A step or output reads something that no input and no step of the program provides."""

    code = "reference-unknown"


class CycleError(ProgramError):
    """Steps wait for each other's outputs. Break the cycle that the message names."""

    code = "program-cycle"


class StepInvalidError(ProgramError):
    """A step's id is missing, malformed or used twice, or a name is not a valid one."""

    code = "step-invalid"


class StepUnusedError(ProgramError):
    """Nothing reads a step's outputs. Take it out: it would cost time and prove nothing."""

    code = "step-unused"


class ProgramTooLargeError(ProgramError):
    """A program has more steps, names or bytes than `limits.py` allows. Split it."""

    code = "program-too-large"


class ProgramTextError(ProgramError):
    """A program file is not usable. The message says where and what was expected."""

    code = "program-text-invalid"


class StackError(ProgramError):
    """The inputs are not stacks of one size. Stack every input along a first dimension."""

    code = "stack-invalid"


class ExpressionError(ProgramError):
    """An expression is not one of the language. The message names the place and what is wrong."""

    code = "expression-invalid"


class NotDeterministicError(ProgramError):
    """A kernel cannot promise equal bits again. Choose another, or do not ask for that."""

    code = "not-deterministic"
