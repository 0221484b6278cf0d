-- What was turned away since its owner, or a block list, forbids the use; of an opt-out also the signal, where one
-- is kept (with ledger.max_rows_per_task set, only the rejections that were kept in detail are counted).
SELECT stage, reason, CASE WHEN reason = 'opt_out' THEN detail END AS signal, count(*) AS rejected
FROM rejections
WHERE reason IN ('opt_out', 'robots_txt', 'block_list')
GROUP BY ALL
ORDER BY rejected DESC, stage, reason, signal
LIMIT 50
