-- Hosts with the most planned pairs, and how many of them arrived.
SELECT host, pairs, fetched, round(100.0 * fetched / pairs, 1) AS fetched_percent
FROM hosts
ORDER BY pairs DESC, host
LIMIT 50
