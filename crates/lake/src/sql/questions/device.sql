-- Which guests held a device, or may have, at a time. Only the objects of that day are read: when
-- the device was released is a matter of later days, and of the question `who`.
WITH {{held}}
alive AS (
  SELECT DISTINCT host, guest, uuid, mac, kind, path, rdev, dev, opened, granted
  FROM held
  WHERE {{condition}} AND (
    (state IN ('held', 'released') AND begun < ended AND begun <= {{at_last}} AND ended > {{at_first}})
    OR {{possibly}}))
SELECT host, guest, uuid, mac, kind, path, rdev, dev, opened, granted
FROM alive
ORDER BY host, guest, uuid, mac, kind, path, opened NULLS FIRST, granted NULLS FIRST, rdev NULLS FIRST, dev NULLS FIRST
