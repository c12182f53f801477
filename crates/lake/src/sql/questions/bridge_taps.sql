-- Taps that the bridge helper passed, with all that is known of each. No record has their guests and
-- MACs: `claimed_name` and `claimed_uuid` are what a process says of itself.
WITH {{bridge_taps}}
whole AS (
  SELECT *
  FROM bridge_taps
  WHERE bridge_taps.last AND {{condition}})
SELECT host, bridge, path, rdev, dev, uid, auid, pid, start_time, claimed_name, claimed_uuid, state, ended_by, passed,
  released, last_seen, uncertain_since
FROM whole
WHERE {{overlaps}}
ORDER BY host, passed, dev NULLS FIRST, pid, start_time NULLS FIRST, bridge, state
