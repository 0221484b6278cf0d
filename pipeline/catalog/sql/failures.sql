-- Why things were rejected, over all stages.
SELECT stage, unit, reason, "count"
FROM reasons
ORDER BY "count" DESC, stage, reason
