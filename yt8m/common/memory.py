"""Memory between one large tensor and the next."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_KEPT = 1 << 30


def keep_freed_memory() -> None:
    """Have the C library keep what tensors on the CPU have freed, up to 1 GB, for the next ones.

    It would give large pieces back to the system, and each of their pages costs a fault when it is used again. Only
    glibc has the setting; without it nothing changes.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            set_option(option, _KEPT)
