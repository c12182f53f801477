-- Addresses that guests of two hosts held at the same time. One guest on both is a live migration;
-- two guests are a copied address, or chance. `since` and `until` are the first and last moment.
WITH {{held}}
alive AS (
  SELECT DISTINCT day, mac, host, guest, uuid, greatest(begun, day_start) AS a_since, least(ended, day_end) AS a_until
  FROM held
  WHERE state IN ('held', 'released') AND begun < ended AND {{condition}}),
suspects AS (
  SELECT day, mac FROM alive GROUP BY day, mac HAVING min(host) <> max(host)),
pairs AS (
  SELECT one.mac AS mac, one.host AS host, one.guest AS guest, one.uuid AS uuid,
    two.host AS other_host, two.guest AS other_guest, two.uuid AS other_uuid,
    greatest(one.a_since, two.a_since) AS both_since, least(one.a_until, two.a_until) AS both_until
  FROM suspects
  JOIN alive AS one ON one.day = suspects.day AND one.mac = suspects.mac
  JOIN alive AS two ON two.day = suspects.day AND two.mac = suspects.mac
  WHERE one.host < two.host AND one.a_since < two.a_until AND two.a_since < one.a_until)
SELECT mac, host, guest, uuid, other_host, other_guest, other_uuid,
  CASE WHEN uuid = other_uuid THEN 'migration' ELSE 'two-guests' END AS what,
  min(both_since) AS since, max(both_until) AS until
FROM pairs
GROUP BY mac, host, guest, uuid, other_host, other_guest, other_uuid
ORDER BY mac, host, other_host, guest, uuid, other_guest, other_uuid
