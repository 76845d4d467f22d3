"""Log-mel spectra, the input of AudioSet's VGGish (Hershey et al. 2017, section 3.1).

Dimensions: N seconds, T windows in a second, F frequencies of a spectrum, M mel bands.
"""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from yt8m.films.extractors.base import SAMPLE_RATE

WINDOW = 400  # samples: 25 ms
HOP = 160  # 10 ms
WINDOWS = 1 + (SAMPLE_RATE - WINDOW) // HOP  # T, within a second
BANDS = 64  # M
LOWEST, HIGHEST = 125.0, 7500.0  # edges of the bands in hertz
FLOOR = 0.01  # added before the logarithm
_TRANSFORM = 512  # samples of a Fourier transform: a window, zero-padded
_SECONDS = 16  # at once


def log_mel(sound: np.ndarray) -> np.ndarray:
    """Log-mel spectra (N, T, M) float32 of sound (N, SAMPLE_RATE), -1 to 1, second by second.

    Window t of a second begins t * HOP samples into it. A spectrum is the magnitude of the Fourier transform under a
    periodic Hann window; the bands are triangles, evenly spaced on the mel scale; the value is log(band + FLOOR).
    """
    spectra = np.empty((len(sound), WINDOWS, BANDS), np.float32)
    for start in range(0, len(sound), _SECONDS):
        part = slice(start, start + _SECONDS)
        windows = sliding_window_view(sound[part].astype(np.float64), WINDOW, axis=1)[:, ::HOP]
        magnitudes = np.abs(np.fft.rfft(windows * _hann(), _TRANSFORM))
        spectra[part] = np.log(magnitudes @ _bands() + FLOOR)  # one product per second, whatever N
    return spectra


def statistics(sound: np.ndarray) -> np.ndarray:
    """Means, then standard deviations of the bands over each second, (N, 2 * M) float32, of sound (N, SAMPLE_RATE)."""
    spectra = log_mel(sound).astype(np.float64)
    return np.concatenate([spectra.mean(axis=1), spectra.std(axis=1)], axis=1).astype(np.float32)


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    """HTK's mel scale."""
    return 1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0)


@cache
def _hann() -> np.ndarray:
    """The periodic Hann window, (WINDOW,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))


@cache
def _bands() -> np.ndarray:
    """Weights of the frequencies in the bands, (F, M): triangles in mel. Frequency 0 is in none."""
    frequencies = _mel(np.arange(_TRANSFORM // 2 + 1) * (SAMPLE_RATE / _TRANSFORM))[:, None]
    edges = np.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0.0, np.minimum((frequencies - low) / (peak - low), (high - frequencies) / (high - peak)))
