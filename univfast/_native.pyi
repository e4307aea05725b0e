"""The compiled core. Called only by `univfast.native`, which owns the memory that it works on."""

class DType:
    float64: DType
    float32: DType
    float16: DType
    bfloat16: DType

class Matrix:
    def __init__(
        self, *, data: int, dtype: DType, rows: int, columns: int, row_stride: int
    ) -> None: ...

class Signs:
    def __init__(self, *, data: int, draws: int) -> None: ...

SIGN_STAGES: int
COMPILER: str

def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def paired_workspace(tokens: int, neurons: int, draws: int, threads: int) -> int: ...
def paired_moments(
    *,
    a: Matrix,
    b: Matrix,
    rows: tuple[int, int],
    signs: Signs,
    moments: int,
    workspace: tuple[int, int],
    threads: int,
) -> tuple[bool, int, int, float] | None: ...
def rotation_signs(*, signs: int, draws: int, neurons: int, seed: int) -> None: ...
def rotate_workspace(x: Matrix, threads: int) -> int: ...
def rotate(
    *, x: Matrix, signs: Signs, output: int, workspace: tuple[int, int], threads: int
) -> None: ...
