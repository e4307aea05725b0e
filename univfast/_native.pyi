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

class Shifts:
    def __init__(self, *, leads: int, lags: int, count: int, lag_count: int) -> None: ...

class CoMoments:
    def __init__(self, *, data: int, rows: int, columns: int, row_stride: int) -> None: ...

class Tile:
    def __init__(self, *, c: CoMoments, row_inverse: int, skip: int, threads: int) -> None: ...

class PairRows:
    def __init__(self, *, starts: int, places: int, count: int) -> None: ...

SIGN_STAGES: int
COMMON_ROUNDS: int
SHARED_LAGS: int
COMPILER: str

def plain_floats() -> bytes | None: ...
def restore_floats(before: bytes) -> None: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def paired_workspace(
    tokens: int, neurons: int, draws: int, shifts: Shifts, threads: int
) -> int: ...
def paired_moments(
    *,
    a: Matrix,
    b: Matrix,
    rows: tuple[int, int],
    signs: Signs,
    shifts: Shifts,
    moments: int,
    workspace: tuple[int, int],
    threads: int,
) -> tuple[bool, int, int, float] | None: ...
def rotation_signs(*, signs: int, draws: int, neurons: int, seed: int) -> None: ...
def rotate_workspace(x: Matrix, threads: int) -> int: ...
def rotate(
    *, x: Matrix, signs: Signs, output: int, workspace: tuple[int, int], threads: int
) -> None: ...
def neuron_moments(
    *, x: Matrix, mean: int, m2: int, threads: int
) -> tuple[bool, int, int, float] | None: ...
def standardise(
    *,
    x: Matrix,
    mean: int,
    scale: int,
    output: int,
    output_dtype: DType,
    output_stride: int,
    threads: int,
) -> None: ...
def add_product(
    *,
    c: CoMoments,
    product: Matrix,
    scales: tuple[int, int],
    count: int,
    deltas: tuple[int, int],
    threads: int,
) -> None: ...
def multiplies_bfloat16() -> bool: ...
def packed_size(tokens: int, neurons: int) -> int: ...
def pack(*, x: Matrix, scale: int, packed: tuple[int, int, int], threads: int) -> None: ...
def packed_product_workspace(c: CoMoments, threads: int) -> int: ...
def add_packed_product(
    *,
    c: CoMoments,
    x: tuple[int, int, int],
    y: tuple[int, int, int],
    tokens: int,
    scales: tuple[int, int],
    count: int,
    deltas: tuple[int, int],
    workspace: tuple[int, int],
    threads: int,
) -> None: ...
def best_pairs_workspace(c: CoMoments, threads: int) -> int: ...
def best_pairs(
    *,
    tile: Tile,
    column_inverse: int,
    first: tuple[int, int],
    count: int,
    best: tuple[int, int],
    column_best: tuple[int, int],
    workspace: tuple[int, int],
) -> None: ...
def standardise_transposed(
    *,
    x: Matrix,
    mean: int,
    scale: int,
    output: int,
    output_dtype: DType,
    output_stride: int,
    threads: int,
) -> None: ...
def candidate_products(
    *,
    x: Matrix,
    y: Matrix,
    pairs: PairRows,
    scales: tuple[int, int],
    deltas: tuple[int, int],
    sums: int,
    threads: int,
) -> None: ...
def pair_details(
    *,
    frame: tuple[int, int],
    dtype: DType,
    a: list[Matrix],
    b: list[Matrix],
    match: int,
    rows: tuple[int, int],
    first_token: int,
    ends: tuple[int, int],
    sums: tuple[int, int],
    top: tuple[tuple[int, int, int], tuple[int, int, int]],
    count: int,
    threads: int,
) -> None: ...
def group_sums(
    *,
    x: Matrix,
    rows: tuple[int, int],
    groups: int,
    pivot: int,
    sums: tuple[int, int],
    count: int,
    threads: int,
) -> None: ...
def extreme_tokens(
    *,
    x: Matrix,
    tokens: int,
    high: tuple[int, int],
    low: tuple[int, int],
    count: int,
    threads: int,
) -> None: ...
def rotated_best_workspace(c: CoMoments, threads: int) -> int: ...
def rotated_best(
    *,
    tile: Tile,
    signs: Signs,
    column_inverse: int,
    best: tuple[int, int],
    single: int,
    single_r: tuple[int, int],
    workspace: tuple[int, int],
) -> None: ...
def rotated_variance_workspace(c: CoMoments, draws: int, threads: int) -> int: ...
def rotated_variance(
    *, c: CoMoments, signs: Signs, variance: int, workspace: tuple[int, int], threads: int
) -> None: ...

class Grouped:
    def __init__(self, *, starts: int, numbers: int, values: int, groups: int) -> None: ...

def group_entries(
    *, keys: int, entries: Grouped, dtype: DType, count: int, grouped: Grouped, threads: int
) -> None: ...

class Entries:
    def __init__(
        self, *, tokens: int, features: int, values: int, dtype: DType, count: int, width: int
    ) -> None: ...

def repeated_entry(*, entries: Entries, seen: int) -> int | None: ...
def add_entry_moments(*, entries: Entries, sums: int, squares: int) -> None: ...
def add_entry_products(
    *, c: CoMoments, rows: Grouped, columns: Grouped, dtype: DType, threads: int
) -> None: ...

class _Cuda:
    """The submodule. Addresses are the device's; a stream is its number and a ``cudaStream_t``."""

    def built_with(self) -> str | None: ...
    def unavailable(self) -> str: ...
    def devices(self) -> list[tuple[str, int, int, int]]: ...
    def paired_update_workspace(
        self, a: Matrix, b: Matrix, draws: int, shifts: Shifts, device: int
    ) -> int: ...
    def paired_update(
        self,
        *,
        a: Matrix,
        b: Matrix,
        keep: int,
        first_token: int,
        signs: Signs,
        shifts: Shifts,
        before: tuple[int, int],
        after: tuple[int, int],
        workspace: tuple[int, int],
        stream: tuple[int, int],
    ) -> None: ...
    def rotate_workspace(self, x: Matrix, device: int) -> int: ...
    def rotate(
        self,
        *,
        x: Matrix,
        signs: Signs,
        output: int,
        workspace: tuple[int, int],
        stream: tuple[int, int],
    ) -> None: ...
    def add_product(
        self,
        *,
        c: CoMoments,
        product: Matrix,
        scales: tuple[int, int],
        count: int,
        deltas: tuple[int, int],
        stream: tuple[int, int],
    ) -> None: ...
    def best_pairs(
        self,
        *,
        tile: Tile,
        column_inverse: int,
        first: tuple[int, int],
        count: int,
        best: tuple[int, int],
        column_best: tuple[int, int],
        stream: tuple[int, int],
    ) -> None: ...
    def rotated_best_workspace(self, c: CoMoments, device: int) -> int: ...
    def rotated_best(
        self,
        *,
        tile: Tile,
        signs: Signs,
        column_inverse: int,
        best: tuple[int, int],
        single: int,
        single_r: tuple[int, int],
        workspace: tuple[int, int],
        stream: tuple[int, int],
    ) -> None: ...

cuda: _Cuda
