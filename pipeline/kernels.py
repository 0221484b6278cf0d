"""`python -m pipeline.kernels`: compile every kernel now, so that no run has to.

    KERNELS --each on a small input, in processes side by side--> code where the first run looks for it

A kernel compiles for the types that it is called with, so each is called here as the stages call it. What is compiled
already costs its loading. `make` ends its set-up with this; `setup.py` compiles what goes into a wheel.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from pipeline.compiled.processor import baseline
from pipeline.terminal.printable import say

__all__ = ["KERNELS", "compile_all", "main"]


def _scan_wat() -> None:
    from pipeline.stages.extract.blocks import joined
    from pipeline.stages.extract.wat_scan import Scanner

    scanner = Scanner(["alt"], ["noai"], 2048)
    scanner.columns.make_room(64)
    scanner.scan(joined([0], [b"{}"]), 0, 1)


def _find_blocks() -> None:
    import numpy as np

    from pipeline.stages.extract.heads import find_blocks

    find_blocks(b"\n", np.array([1], np.int64), wanted=b"response", max_bytes=1)


def _identify_language() -> None:
    import pyarrow as pa

    from pipeline.stages.language.model import load_model
    from pipeline.stages.language.words import Lexicon

    load_model().predict(pa.array(["a dog"], pa.string()), "en", Lexicon(words=frozenset(["dog"])))


def _match() -> None:
    from pipeline.matching.config import MatchConfig
    from pipeline.matching.matcher import Matcher
    from pipeline.records.queries import query_list_of

    Matcher.build(query_list_of(["dog"]), MatchConfig()).find(["a dog"])


def _judge_texts() -> None:
    import pyarrow as pa

    from pipeline.stages.clean.clean import clean
    from pipeline.stages.clean.config import CleanConfig

    clean(pa.RecordBatch.from_pydict({"alt_text": ["a dog"]}), CleanConfig())


def _balance() -> None:
    import numpy as np
    import pyarrow as pa

    from pipeline.stages.balance.edges import gather
    from pipeline.stages.balance.modes import MODES
    from pipeline.stages.balance.selection import balance
    from pipeline.stages.balance.thresholds import Thresholds
    from pipeline.stages.balance.windows import unbounded

    uids, lists = pa.array([bytes(16)], pa.binary(16)), pa.array([[0]], pa.list_(pa.int32()))
    batch = pa.RecordBatch.from_arrays([uids, lists], ["uid", "query_ids"])
    largest, first = np.full(1, -1).astype(np.uint64), np.zeros(1, np.int64)
    gather(batch, MODES[0], seed=0, query_hashes=largest, windows=unbounded(1, first), below=first)
    keeps_all = Thresholds(hashes=largest, uids=np.zeros(1, "V16"))
    balance(batch, MODES[0], seed=0, query_hashes=largest, thresholds=keeps_all)


def _shrink() -> None:
    from pipeline.stages.check_image import area

    area.prepare()


KERNELS: Mapping[str, Callable[[], None]] = {
    "read WAT records": _scan_wat,
    "match queries": _match,
    "identify languages": _identify_language,
    "judge texts": _judge_texts,
    "find records in archives": _find_blocks,
    "balance": _balance,
    "resize pictures": _shrink,
}


def compile_all(say_done: Callable[[str, float], None]) -> None:
    """Have every kernel's code kept, in as many processes as there are processors; tells each with its seconds.

    It is compiled for the baseline, or for this processor where that is below it.
    """
    if (shared := baseline()) is not None:  # read by numba and `here` in the processes that start below
        os.environ |= {"NUMBA_CPU_NAME": shared.cpu, "NUMBA_CPU_FEATURES": shared.features}
    with ProcessPoolExecutor(_num_processes(), mp_context=get_context("spawn")) as processes:
        tasks = {processes.submit(_compile, name): name for name in KERNELS}
        for task in as_completed(tasks):
            say_done(tasks[task], task.result())


def _num_processes() -> int:
    return min(os.cpu_count() or 1, len(KERNELS))


def _compile(name: str) -> float:
    gc.disable()  # the compiler makes millions of objects, and needs most of them
    start = time.monotonic()
    KERNELS[name]()
    return time.monotonic() - start


def main() -> int:
    """Compile what is not compiled yet, and say so."""
    start = time.monotonic()
    say(f"Compiling the kernels, {_num_processes()} at a time, so that no run has to:")
    compile_all(lambda name, seconds: say(f"  {name} ({seconds:.0f} s)"))
    say(f"The kernels are compiled ({time.monotonic() - start:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
