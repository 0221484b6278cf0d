-- What the pages of the samples state as their licence (rel=license); null where they state none, or the source is a
-- table without the column.
SELECT license, count(*) AS samples, round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent
FROM published
GROUP BY license
ORDER BY samples DESC, license
LIMIT 50
