"""Shell: what a worker gains by computing several pictures at once, and how long such a batch takes: for `pool.max_batch`.

    python -m bench batching

One process with a worker's engine and preprocessing, one thread on one core, no server: pictures are decoded and brought into
the batch one after another, then computed together. Batch sizes take turns.
"""

from functools import partial

import numpy as np

from control.versions import list_versions
from hotpool.config import Config
from workers.pictures import decode
from workers.torch_version import TorchVersion, limit_threads, load_torch_version

from .figures import Bar, Figure, Findings, ratios
from .machine import pin_to_one_core
from .measure import in_turn
from .pool import homes, make_jpeg

SIZES, PICTURES_A_ROUND = (1, 2, 4, 8, 16), 16
ROUNDS, QUICK_ROUNDS = {"int8": 5, "fp32": 2}, 1
# What is missing to the best rate a larger batch would make every picture in it wait twice as long for.
ENOUGH = 0.9


def run(quick: bool = False) -> Findings:
    limit_threads(1)
    pictures = [make_jpeg(seed) for seed in range(max(SIZES))]
    figures: list[Figure] = []
    notes = [f"rule for max_batch: the smallest size that reaches {ENOUGH} of the best rate"]
    with homes(ROUNDS) as filled:
        pinned = pin_to_one_core()  # only now: versions are made on all cores
        notes.append(f"one thread, {pinned}; ResNet-18 at 224, JPEG of {len(pictures[0]) / 1e3:.0f} KB")
        for precision, rounds in ROUNDS.items():
            (version,) = list_versions(filled[precision])
            served = load_torch_version(filled[precision], version.digest, on_state=lambda state: None)
            made, note = measure(precision, served, pictures, QUICK_ROUNDS if quick else rounds)
            figures += made
            notes.append(note)
    return Findings(tuple(figures), tuple(notes))


def measure(precision: str, version: TorchVersion, pictures: list[bytes], rounds: int) -> tuple[list[Figure], str]:
    """A row for each size, and which the rule names."""
    limits, side = Config().pictures, version.side
    rows = np.empty((max(SIZES), side, side, 3), np.float32)

    def serve(n: int) -> None:
        for _ in range(PICTURES_A_ROUND // n):
            for row, data in zip(rows[:n], pictures, strict=False):
                version.picture(decode(data, limits.max_bytes, limits.max_pixels, version.least_side), row)
            version.logits(rows[:n].transpose(0, 3, 1, 2))

    return describe(precision, in_turn([partial(serve, n) for n in SIZES], rounds))


def describe(precision: str, times: list[tuple[float, ...]]) -> tuple[list[Figure], str]:
    """times: of each size, milliseconds for PICTURES_A_ROUND pictures in each round."""
    figures, rates = [], {}
    for n, took in zip(SIZES, times, strict=True):
        row, rate = f"{precision}, batch {n}", Figure(f"{precision}, batch {n}", "/ batch 1", ratios(times[0], took))
        figures += [
            Figure(row, "rate", tuple(PICTURES_A_ROUND / ms * 1e3 for ms in took), "pictures/s"),
            rate,
            Figure(row, "a batch takes", tuple(ms * n / PICTURES_A_ROUND for ms in took), "ms"),
        ]
        rates[n] = rate.median
    best, default = max(rates.values()), Config().pool.max_batch
    chosen = next(n for n in SIZES if rates[n] >= ENOUGH * best)
    bar = Bar(f"rate at the default of max_batch / the best, {precision}", "≥", ENOUGH)
    figures.append(Figure(f"{precision}, batch {default}", "/ best", (rates[default] / best,), bar=bar))
    return figures, f"{precision}: by that rule {chosen} here; the default, for all precisions and CPUs, is {default}"
