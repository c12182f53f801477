-- Whole holdings, with all that is known of each: of a guest, an interface, a host, or all of them.
WITH {{held}}
whole AS (
  SELECT * FROM (
    SELECT held.*, row_number() OVER (PARTITION BY {{key}} ORDER BY day DESC) AS age
    FROM held
    WHERE {{condition}}) AS numbered
  WHERE age = 1)
SELECT host, guest, uuid, mac, kind, path, rdev, dev, state, certainty, ended_by, end_doubt, queues, pid, opened,
  granted, released, last_seen, uncertain_since
FROM whole
WHERE {{overlaps}}
ORDER BY host, opened NULLS FIRST, granted NULLS FIRST, guest, uuid, mac, kind, path, dev NULLS FIRST
