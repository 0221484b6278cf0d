"""Which samples make up each global batch: `data.sampling`.

    Stream: position -> sample, every one once an epoch
        --Sampling--> batch number -> the B positions that it takes, from what the index says of their queries
        --parts--> a rank's share of each batch, chosen one batch ahead --> data workers, which read nothing else

sampling.py      what a sampling is; uniform: all positions, one after the other
metaclip.py      each sample with its probability, drawn anew in each epoch
concept.py       the batch that suits best, out of a few times as many
followed.py      each of these over data that grows
distribution.py  how often each query comes under a sampling
kernel.py        the compiled loops over queries

A sampling is a function of (seed, batch number) over the stream and the index, equal on every rank. It leaves positions
out and never changes what stands at one; crops are drawn for (sample, epoch of the stream).
"""

from __future__ import annotations
