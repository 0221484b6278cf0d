-- What each signal of an owner's will, and your block list, cost, and when it was decided: before anything was asked
-- for, by the headers of an answer (no body was downloaded), or by the picture itself.
WITH signals(reason, signal, decided) AS (
    VALUES
        ('robots_txt', 'robots.txt', 'before a request'),
        ('robots_txt_ccbot', 'robots.txt for CCBot', 'before a request'),
        ('robots_txt_ai', 'robots.txt for AI robots', 'before a request'),
        ('tdmrep_json', 'tdmrep.json', 'before a request'),
        ('page_robots', 'robots metas and headers of pages', 'before a request'),
        ('tdm_reservation', 'tdm-reservation', 'by the headers'),
        ('content_usage', 'Content-Usage', 'by the headers'),
        ('content_signal', 'Content-Signal', 'by the headers'),
        ('x_robots_tag', 'X-Robots-Tag', 'by the headers'),
        ('data_mining', 'plus:DataMining in XMP', 'by the picture'),
        ('c2pa_training', 'C2PA', 'by the picture'),
        ('opt_out', 'metas and headers, told apart since', 'by the headers'),
        ('block_list', 'your block list', 'by the list')
)

SELECT
    signals.signal,
    CASE
        WHEN signals.decided = 'by the headers' AND reasons.stage <> 'fetch' THEN 'before a request'
        ELSE signals.decided
    END AS decided,
    reasons.stage,
    reasons.reason,
    reasons.unit,
    reasons."count" AS rejected
FROM reasons
INNER JOIN signals ON signals.reason = reasons.reason
ORDER BY rejected DESC, reasons.stage, reasons.reason
