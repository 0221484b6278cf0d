-- Languages of the samples and of what the language stage turned away (detail holds the language).
SELECT lang, sum(matched) AS matched, sum(rejected) AS rejected
FROM (
    SELECT lang, count(*) AS matched, 0 AS rejected FROM matched GROUP BY lang
    UNION ALL
    SELECT regexp_extract(detail, '^[a-z-]+') AS lang, 0, count(*) FROM rejections WHERE stage = 'language' GROUP BY lang
)
GROUP BY lang
ORDER BY matched + rejected DESC, lang
