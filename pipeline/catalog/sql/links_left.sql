-- What is left of all image links after each stage, and the most common reasons for which the others went.
WITH stages AS (
    SELECT position, stage, unit, rows_in, kept, rejected FROM ledger WHERE unit IN ('link', 'pair')
), links AS (
    SELECT arg_min(rows_in, position) AS read FROM stages
), why AS (
    SELECT stage, unit,
           list(reason || ' ' || format('{:,}', "count") ORDER BY "count" DESC, reason) AS reasons
    FROM reasons GROUP BY stage, unit
)
SELECT stage, rows_in AS "in", kept AS "left", round(100.0 * kept / nullif(read, 0), 2) AS left_percent, rejected AS lost,
       array_to_string(reasons[:3], ', ') AS why
FROM stages CROSS JOIN links LEFT JOIN why USING (stage, unit)
ORDER BY position
