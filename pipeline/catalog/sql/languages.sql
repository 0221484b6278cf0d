-- Languages of the matched pairs and of what the language stage turned away (its detail holds the language; with
-- ledger.max_rows_per_task set, only the rejections that were kept in detail are counted).
SELECT lang, sum(pairs) AS matched, sum(turned_away) AS rejected
FROM (
    SELECT lang, count(*) AS pairs, 0 AS turned_away FROM matched GROUP BY lang
    UNION ALL
    SELECT regexp_extract(detail, '^[a-z-]+') AS lang, 0, count(*) FROM rejections WHERE stage = 'language' GROUP BY lang
)
GROUP BY lang
ORDER BY sum(pairs) + sum(turned_away) DESC, lang
