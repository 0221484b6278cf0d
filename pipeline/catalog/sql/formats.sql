-- Formats of the pictures as served, with their mean size as served and as stored.
SELECT original_format AS format, count(*) AS samples,
       round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent,
       round(avg(original_bytes))::BIGINT AS mean_bytes, round(avg(num_bytes))::BIGINT AS mean_stored_bytes
FROM published
GROUP BY original_format
ORDER BY samples DESC, format
