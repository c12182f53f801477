-- Holdings of each kind of device on each day: how many lived, and how many began.
WITH {{held}}
chosen AS (SELECT day, kind, first FROM held WHERE {{condition}})
SELECT day, kind, count(*) AS lived, sum(CASE WHEN first THEN 1 ELSE 0 END) AS began
FROM chosen
GROUP BY day, kind
ORDER BY day, kind
