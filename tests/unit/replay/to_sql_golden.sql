-- timed
SELECT * EXCLUDE newest, coalesce(_ts < newest - 600000000, false) AS late
FROM (SELECT _k0, _ts, _seq, _c_amount, _f0, max(_ts) OVER (PARTITION BY _k0 ORDER BY _seq
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest FROM "rows");

-- visible
SELECT _k0, _ts, _seq, tie, moved, ((_ts - (0) + 1)::BIGINT * 4096) + tie AS o,
       true AS _v0,
       CASE WHEN "_f0" THEN no_nan("_c_amount" + 0::DOUBLE) END AS _v1,
       no_nan("_c_amount" + 0::DOUBLE) AS _v2,
       sum(_b0) OVER (PARTITION BY _k0 ORDER BY _ts, _seq) AS _s0
FROM (SELECT *, (row_number() OVER by_time
               - rank() OVER (PARTITION BY _k0 ORDER BY _ts))::BIGINT AS tie,
             coalesce(min(_ts) OVER (PARTITION BY _k0 ORDER BY _seq ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) < _ts, false) AS moved,
             coalesce(_ts - lag(_ts) OVER by_time >= 300000000, false)::INT AS _b0
      FROM timed WHERE NOT late
      WINDOW by_time AS (PARTITION BY _k0 ORDER BY _ts, _seq));

-- plain
SELECT _seq, moved OR coalesce(NOT isfinite(_p1), false) OR (_p2 IS NOT NULL AND NOT (_p6 * _p6 <= 100000.0 * _p2 OR _p3 = _p4)) AS _odd,
       _p0 AS "n",
       no_nan(_p1) AS "total",
       sqrt(CASE WHEN _p2 IS NOT NULL AND _p3 = _p4 THEN 0 ELSE _p2 END) AS "spread",
       _p5 AS "visit"
FROM (SELECT _seq, moved,
         count(*) OVER f0 AS _p0,
         sum(_v1) OVER f1 AS _p1,
         var_samp(_y2) OVER f2 AS _p2,
         min(_v2) OVER f2 AS _p3,
         max(_v2) OVER f2 AS _p4,
         first_value(_v2 IGNORE NULLS) OVER f3 AS _p5,
         avg(_y2) OVER f2 AS _p6
  FROM (SELECT *,
    (_v2::DOUBLE - coalesce(first_value(CASE WHEN isfinite(_v2) THEN _v2::DOUBLE END IGNORE NULLS) OVER (PARTITION BY _k0 ORDER BY o), 0))::DOUBLE AS _y2
    FROM visible)
  WINDOW f0 AS (PARTITION BY _k0 ORDER BY o RANGE BETWEEN 4096000000000::BIGINT + tie PRECEDING AND CURRENT ROW),
         f1 AS (PARTITION BY _k0 ORDER BY o RANGE BETWEEN o - ((greatest(floor_div(_ts - 2592000000000, 3600000000) * 3600000000, 0) - (0) + 1)::BIGINT * 4096) PRECEDING AND CURRENT ROW),
         f2 AS (PARTITION BY _k0 ORDER BY o ROWS BETWEEN 9 PRECEDING AND 1 PRECEDING),
         f3 AS (PARTITION BY _k0, _s0 ORDER BY o ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW));

-- odd
WITH seen AS (
  SELECT r._seq AS r, r._ts AS r_ts, s.*
  FROM (SELECT v.* FROM visible v JOIN plain USING (_seq) WHERE _odd) r
  JOIN visible s ON s._k0 = r._k0 AND s._ts <= r._ts AND s._seq <= r._seq),
counted AS (
  SELECT *, row_number() OVER newest_first AS back,
         coalesce(lag(_ts) OVER newest_first - _ts >= 300000000, false)::INT AS pause0
  FROM seen WINDOW newest_first AS (PARTITION BY r ORDER BY o DESC)),
framed AS (
  SELECT *,
         _ts > r_ts - 3600000000 AS in0,
         _ts >= floor_div(r_ts - 2592000000000, 3600000000) * 3600000000 AS in1,
         back <= 10 AND _seq <> r AS in2,
         pauses0 = 0 AS in3
  FROM (SELECT *, sum(pause0) OVER (PARTITION BY r ORDER BY o DESC) AS pauses0 FROM counted))
SELECT r AS _seq,
       _p0 AS "n",
       no_nan(coalesce(_p1, _p2 / _p3)) AS "total",
       sqrt(CASE WHEN _p5 = 0 THEN _p4 / _p6 / _p6 END) AS "spread",
       _p7 AS "visit"
FROM (SELECT r,
         count(*) FILTER (WHERE in0) AS _p0,
         sum(_v1) FILTER (WHERE in1 AND isinf(_v1)) AS _p1,
         fsum(_v1 * _q0) FILTER (WHERE in1 AND isfinite(_v1)) AS _p2,
         any_value(_q0) FILTER (WHERE in1) AS _p3,
         var_samp(_v2 * _q1 - _q2 * _q1) FILTER (WHERE in2 AND isfinite(_v2)) AS _p4,
         count(_v2) FILTER (WHERE in2 AND isinf(_v2)) AS _p5,
         any_value(_q1) FILTER (WHERE in2) AS _p6,
         arg_min(_v2, o) FILTER (WHERE in3) AS _p7
  FROM framed JOIN (SELECT r,
         power_for(max(abs(_v1::DOUBLE)) FILTER (WHERE in1 AND isfinite(_v1))) AS _q0,
         power_for(max(abs(_v2::DOUBLE)) FILTER (WHERE in2 AND isfinite(_v2))) AS _q1,
         arg_min(_v2, o) FILTER (WHERE in2 AND isfinite(_v2)) AS _q2 FROM framed GROUP BY r) USING (r) GROUP BY r);

-- answers
SELECT false AS _late, * EXCLUDE _odd FROM plain
WHERE NOT _odd
UNION ALL BY NAME SELECT false AS _late, * FROM odd
UNION ALL BY NAME SELECT true AS _late, _seq FROM timed WHERE late;

