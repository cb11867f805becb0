"""Sets the number of threads of a BLAS that this process has loaded already.

OpenBLAS, MKL and BLIS read their variables once, when they are loaded.  The zygote loads numpy with one thread, so a
worker that may use more threads calls the library's own function.  (threadpoolctl does the same, but zray does not
depend on it.)
"""

from __future__ import annotations

import ctypes

BLAS_NAMES = ("openblas", "mkl_rt", "blis")
# numpy's wheels rename the functions of their OpenBLAS: prefix scipy_, suffix 64_.
BLAS_FUNCTIONS = (*(f"{before}openblas_set_num_threads{behind}" for before in ("", "scipy_")
               for behind in ("", "64_", "_64")), "MKL_Set_Num_Threads", "bli_thread_set_num_threads")


def set_threads(count: int) -> int:
    """Let every BLAS in this process use ``count`` threads; returns how many functions were found and called."""
    called = 0
    for path in loaded():
        library = ctypes.CDLL(path)
        for name in BLAS_FUNCTIONS:
            function = getattr(library, name, None)
            if function is not None:
                function.argtypes, function.restype = [ctypes.c_int], None
                function(count)
                called += 1
                break
    return called


def loaded() -> list[str]:
    """Paths of the BLAS libraries in this process, recognised by their file names."""
    paths = set()
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")
            file = path[2].rpartition("/")[2]
            if path[1] and ".so" in file and any(name in file for name in BLAS_NAMES):
                paths.add("/" + path[2])
    return sorted(paths)
