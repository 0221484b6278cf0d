-- Characters of a caption, in steps of 10; 300 stands for 300 and more.
SELECT least(length(caption) // 10 * 10, 300) AS characters_from, count(*) AS samples
FROM published
GROUP BY characters_from
ORDER BY characters_from
