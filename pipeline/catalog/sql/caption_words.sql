-- Words of a caption, cut at spaces; 40 stands for 40 and more.
SELECT least(length(caption) - length(replace(caption, ' ', '')) + 1, 40) AS words, count(*) AS samples
FROM published
GROUP BY words
ORDER BY words
