-- Hosts of which the whole run shares one limit: how many URLs of each were to be requested.
SELECT host, urls
FROM heavy_hosts
ORDER BY urls DESC, host
LIMIT 50
