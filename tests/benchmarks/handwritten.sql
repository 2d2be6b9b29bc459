-- What a person would write by hand for the sample rulebook over the generated hits: it knows the three clients, their
-- aliases and triggers, reads only what they need, recognises by the first hit of each identifier (two rounds), and leaves
-- out what the data do not hold: conflicts, forgetting, histories over the bound, decoding, unfilled macros, rejections.
CREATE OR REPLACE TEMP TABLE raw AS
SELECT CAST(partition AS BIGINT) * 1000000000000 + seq AS ord, epoch_us(time) AS t, hit_id, partition AS client,
  CASE WHEN route = 'c' THEN 'click' ELSE params['event'] END AS event, params['uid'] AS uid, params['tag_id'] AS tag,
  CASE WHEN route = 'c' THEN hit_id
    ELSE coalesce(params['click_id'], params['subid'], params['clickid']) END AS click,
  CASE WHEN route = 'c' THEN split_part(CAST(path AS VARCHAR), '/', 4) ELSE params['affiliate'] END AS affiliate,
  coalesce(params['amount'], params['revenue']) AS amount,
  coalesce(params['txid'], params['order_id'], params['transaction_id']) AS txid
FROM read_parquet({files}, hive_partitioning = false)
WHERE kind = 'hit' AND params['test'] IS NULL AND coalesce(params['amount'], params['revenue'], '0') NOT LIKE '%,%';

CREATE OR REPLACE TEMP TABLE uids AS SELECT client, uid, min(ord) AS first FROM raw WHERE uid IS NOT NULL GROUP BY ALL;
CREATE OR REPLACE TEMP TABLE tags AS SELECT client, tag, min(ord) AS first FROM raw WHERE tag IS NOT NULL GROUP BY ALL;
CREATE OR REPLACE TEMP TABLE clicks AS SELECT client, click, min(ord) AS first FROM raw WHERE click IS NOT NULL GROUP BY ALL;
CREATE OR REPLACE TEMP TABLE linked AS
SELECT r.ord, least(u.first, g.first, c.first, r.ord) AS up FROM raw AS r LEFT JOIN uids AS u USING (client, uid)
LEFT JOIN tags AS g USING (client, tag) LEFT JOIN clicks AS c USING (client, click);
CREATE OR REPLACE TEMP TABLE people AS
SELECT a.ord, least(c.up, b.up) AS visitor FROM linked AS a JOIN linked AS b ON b.ord = a.up JOIN linked AS c ON c.ord = b.up;

CREATE OR REPLACE TEMP TABLE wanted AS
SELECT DISTINCT visitor FROM people JOIN raw USING (ord)
WHERE event IN ('registration', 'sale') OR (event = 'login' AND client = {acme});
CREATE OR REPLACE TEMP TABLE said AS
SELECT p.visitor, r.*, h.params FROM people AS p SEMI JOIN wanted AS w ON w.visitor = p.visitor
JOIN raw AS r ON r.ord = p.ord JOIN (SELECT CAST(partition AS BIGINT) * 1000000000000 + seq AS ord, params
  FROM read_parquet({files}, hive_partitioning = false)) AS h ON h.ord = p.ord
QUALIFY txid IS NULL OR row_number() OVER (PARTITION BY client, event, txid ORDER BY r.ord) = 1;
CREATE OR REPLACE TEMP TABLE facts AS
SELECT *, coalesce(affiliate, last_value(CASE WHEN event = 'click' THEN affiliate END IGNORE NULLS) OVER past) AS partner,
  coalesce(params['country'], last_value(params['country'] IGNORE NULLS) OVER past) AS country,
  coalesce(params['sub1'], last_value(params['sub1'] IGNORE NULLS) OVER past) AS sub1,
  coalesce(params['coupon'], last_value(params['coupon'] IGNORE NULLS) OVER past) AS coupon,
  coalesce(params['destination'], last_value(params['destination'] IGNORE NULLS) OVER past) AS destination,
  coalesce(sum(CASE WHEN event = 'sale' THEN 1 END) OVER past, 0) AS sales,
  max(CASE WHEN event = 'sale' THEN t END) OVER past AS last_sale, max(CASE WHEN event = 'click' THEN t END) OVER past AS clicked,
  max(CASE WHEN event = 'registration' THEN since_click END) OVER past AS registered,
  list(params) OVER (PARTITION BY visitor ORDER BY ord) AS heard
FROM (SELECT *, max(CASE WHEN event = 'click' THEN t END) OVER past AS since_click FROM said
  WINDOW past AS (PARTITION BY visitor ORDER BY ord ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
WINDOW past AS (PARTITION BY visitor ORDER BY ord ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING);
CREATE OR REPLACE TEMP TABLE fired AS
WITH reached AS (
  SELECT 'signup' AS trigger, *, '2.00' AS payout FROM facts WHERE client = {acme} AND event = 'registration'
    AND partner IS NOT NULL AND clicked >= t - 2592000000000
  UNION ALL SELECT 'first-deposit', *, CAST(round(CAST(amount AS DECIMAL(18, 4)) * 0.25, 2) AS VARCHAR) FROM facts
    WHERE client = {acme} AND event = 'sale' AND partner IS NOT NULL AND registered >= t - 2592000000000
    AND CAST(amount AS DECIMAL(18, 4)) >= 20 AND country IN ('DE', 'AT', 'CH') AND sales = 0
  UNION ALL SELECT 'vip-login', *, '' FROM facts WHERE client = {acme} AND event = 'login' AND sales >= 2
    AND t - last_sale < 604800000000
  UNION ALL SELECT 'order', *, CAST(round(CAST(amount AS DECIMAL(18, 4)) * 0.075, 2) AS VARCHAR) FROM facts
    WHERE client = {bolt} AND event = 'sale' AND partner IS NOT NULL AND clicked IS NOT NULL
    AND NOT coalesce(regexp_matches(coupon, '(?i)^staff'), false)
  UNION ALL SELECT 'booking', *, '12.50' FROM facts WHERE client = {cozy} AND event = 'sale' AND partner IS NOT NULL
    AND (CAST(amount AS DECIMAL(18, 4)) > 100 OR destination = 'Rome')
), once AS (
  SELECT * FROM reached
  QUALIFY trigger NOT IN ('signup', 'first-deposit') OR row_number() OVER (PARTITION BY trigger, visitor ORDER BY ord) = 1
)
SELECT * FROM once QUALIFY trigger <> 'first-deposit'
  OR row_number() OVER (PARTITION BY trigger, partner, t // 86400000000 ORDER BY ord) <= 500;
CREATE OR REPLACE TEMP TABLE postbacks AS
SELECT left(sha256(hit_id || chr(31) || trigger || chr(31) || recipient), 32) AS id, trigger, recipient,
  CASE WHEN recipient = 'bolt' THEN 'http://127.0.0.1:8701/bolt/hook?order=' || url_encode(txid) || '&amount=' || url_encode(amount)
    WHEN recipient IN ('acme', 'cozy', 'dealwise') THEN 'http://127.0.0.1:8701/' || recipient
    ELSE 'http://127.0.0.1:8701/' || recipient || '?cid=' || coalesce(url_encode(sub1), '') || '&sum=' || payout END AS url,
  CASE WHEN recipient IN ('acme', 'cozy', 'dealwise') THEN to_json({{'hit_id': hit_id, 'trigger': trigger, 'event': event,
    'time': strftime(make_timestamp(t), '%Y-%m-%dT%H:%M:%S.%fZ'), 'affiliate': partner, 'visitor': visitor, 'uid': uid,
    'txid': txid, 'amount': amount, 'payout': payout, 'params': list_reduce(heard, lambda a, b: map_concat(a, b))}}) END AS body
FROM (SELECT *, unnest(CASE WHEN trigger = 'vip-login' THEN ['acme'] ELSE
  [list_value('acme', 'bolt', 'cozy')[CASE client WHEN {acme} THEN 1 WHEN {bolt} THEN 2 ELSE 3 END], partner] END) AS recipient
  FROM fired);
CREATE OR REPLACE TEMP TABLE counts AS
SELECT trigger, partner, count(*) AS firings, sum(TRY_CAST(payout AS DECIMAL(18, 3))) AS payout FROM fired GROUP BY ALL;
