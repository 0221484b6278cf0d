-- p_en, the model's probability of the first target language, in steps of 0.05.
SELECT least(floor(p_en * 20)::INTEGER, 19) / 20 AS p_from, count(*) AS samples
FROM published
GROUP BY p_from
ORDER BY p_from
