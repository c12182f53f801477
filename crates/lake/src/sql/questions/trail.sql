-- Whole holdings, with all that is known of each: of a guest, an interface, a host, or all of them.
WITH {{held}}
whole AS (
  SELECT *
  FROM held
  WHERE held.last AND {{condition}})
SELECT host, guest, uuid, mac, kind, path, rdev, dev, state, certainty, ended_by, end_doubt, queues, pid, opened,
  granted, released, last_seen, uncertain_since
FROM whole
WHERE {{overlaps}}
ORDER BY host, opened NULLS FIRST, granted NULLS FIRST, guest, uuid, mac, kind, path, dev NULLS FIRST
