-- Hosts with the most samples: for sets whose fetched pairs are not there, such as a subset. Reads every URL.
SELECT lower(regexp_extract(authority, '^(?:.*@)?(\[[^\]]*\]|[^:?#]*)', 1)) AS host, sum(samples)::BIGINT AS samples,
       round(100.0 * sum(samples) / sum(sum(samples)) OVER (), 1) AS percent
FROM (SELECT split_part(url, '/', 3) AS authority, count(*) AS samples FROM published GROUP BY authority)
GROUP BY host
ORDER BY samples DESC, host
LIMIT 50
