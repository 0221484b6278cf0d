-- What went into each stage, what was kept, and the share kept.
SELECT stage, unit, rows_in AS "in", kept, rejected, round(100.0 * kept / nullif(rows_in, 0), 1) AS kept_percent
FROM ledger
ORDER BY position
