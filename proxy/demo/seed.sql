-- The shop's rows, made by the server itself. The number of users is the psql variable
-- `users`; the rest follows from it. Run by a superuser: as a replica, so that half a
-- million foreign keys, right by construction, are not looked up one by one.

SET session_replication_role = replica;
SET synchronous_commit = off;
SELECT setseed(0.42) \g /dev/null

INSERT INTO users (email, name, credit, settings, tags, created_at, last_login)
SELECT 'user' || n || '@example.com',
       'User ' || n,
       (n % 1000) / 4.0,
       jsonb_build_object('theme', CASE WHEN n % 3 = 0 THEN 'dark' ELSE 'light' END, 'visits', n % 50),
       CASE WHEN n % 4 = 0 THEN ARRAY['beta', 'news'] WHEN n % 4 = 1 THEN ARRAY['news'] ELSE '{}' END,
       timestamptz '2020-01-01 00:00:00Z' + n * interval '11 minutes',
       CASE WHEN n % 5 > 0 THEN now() - random() * interval '400 days' END
FROM generate_series(1, :users) n;

INSERT INTO products (sku, title, price, stock)
SELECT 'SKU-' || to_char(n, 'FM00000'), 'Product ' || n, 1 + (n * 37 % 5000) / 100.0, 1000000
FROM generate_series(1, 1000) n;

INSERT INTO sessions (user_id, data, address, created_at)
SELECT n * 2, jsonb_build_object('seen', 0, 'agent', 'Mozilla/5.0'), ('10.0.0.0'::inet + n),
       now() - random() * interval '30 days'
FROM generate_series(1, :users / 2) n;

-- Every second user has an order, of one to four lines.
INSERT INTO orders (user_id, status, total, note, placed_at)
SELECT n * 2,
       (ARRAY['paid', 'shipped', 'shipped', 'cancelled'])[1 + n % 4],
       0,
       CASE WHEN n % 7 = 0 THEN E'gift: leave at the door\n\ttab, "quotes", back\\slash, ünïcödé' END,
       timestamptz '2024-01-01 00:00:00Z' + n * interval '4 minutes'
FROM generate_series(1, :users / 2) n;

INSERT INTO order_lines (order_id, line, product_id, quantity, unit_price)
SELECT n, line, 1 + (n * 7 + line * 13) % 1000, 1 + (n + line) % 3,
       1 + ((1 + (n * 7 + line * 13) % 1000) * 37 % 5000) / 100.0
FROM generate_series(1, :users / 2) n, generate_series(1, 1 + n % 4) line;

INSERT INTO events (request_id, user_id, kind, payload, at)
SELECT gen_random_uuid(), n, (ARRAY['view', 'search', 'cart'])[1 + n % 3],
       jsonb_build_object('n', n, 'path', '/item/' || n % 1000),
       timestamptz '2025-01-01 00:00:00Z' + n * interval '1 minute'
FROM generate_series(1, :users) n;

RESET synchronous_commit;
RESET session_replication_role;
VACUUM (FREEZE, ANALYZE);
