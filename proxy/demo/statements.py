"""The SQL of the shop's clients, as an application's source has it."""

from __future__ import annotations

READ_USER = "SELECT id, email, name, credit, settings, tags, last_login FROM users WHERE id = $1"
READ_EMAIL = "SELECT id, name FROM users WHERE email = $1"
READ_CREDIT = "SELECT credit FROM users WHERE id = $1"
READ_STATUS = "SELECT status FROM orders WHERE id = $1"
READ_SESSION = "SELECT (data->>'seen')::int FROM sessions WHERE id = $1"
READ_ORDER = "SELECT line, amount FROM order_lines WHERE order_id = $1 ORDER BY line"
READ_NEWEST = "SELECT id, kind, payload, at FROM events ORDER BY id DESC LIMIT 20"
ORDER_USER = "SELECT user_id FROM orders WHERE id = $1"
READ_ORDERS = """
    SELECT o.id, o.status, o.total, o.note, o.placed_at, l.line, l.quantity, l.amount, p.title
    FROM orders o
    JOIN order_lines l ON l.order_id = o.id
    JOIN products p ON p.id = l.product_id
    WHERE o.user_id = $1
    ORDER BY o.placed_at DESC, o.id, l.line
    LIMIT 50
"""
# Only the clients' own orders have a total.
READ_TOTALS = """
    SELECT o.id, o.total, coalesce(sum(l.amount), 0) AS lines
    FROM orders o LEFT JOIN order_lines l ON l.order_id = o.id
    WHERE o.user_id = $1 AND o.total > 0
    GROUP BY o.id
"""

INSERT_ORDER = "INSERT INTO orders (user_id, note) VALUES ($1, $2) RETURNING id"
INSERT_LINES = """
    INSERT INTO order_lines (order_id, line, product_id, quantity, unit_price)
    SELECT $1, wanted.line, p.id, wanted.quantity, p.price
    FROM unnest($2::int[], $3::int[], $4::int[]) AS wanted (line, product_id, quantity)
    JOIN products p ON p.id = wanted.product_id
    RETURNING line, amount
"""
UPDATE_STOCK = "UPDATE products SET stock = stock - $2 WHERE id = $1"
UPSERT_SALES = """
    INSERT INTO daily_sales AS d (day, product_id, sold) VALUES ($1, $2, $3)
    ON CONFLICT (day, product_id) DO UPDATE SET sold = d.sold + excluded.sold
"""
UPDATE_TOTAL = "UPDATE orders SET total = $2, status = 'paid' WHERE id = $1"
SHIP_ORDER = "UPDATE orders SET status = 'shipped' WHERE id = $1 RETURNING id, status, placed_at"
DELETE_ORDER = "DELETE FROM orders WHERE id = $1"

INSERT_SESSION = "INSERT INTO sessions (user_id, address) VALUES ($1, '10.1.2.3') RETURNING id"
UPDATE_LOGIN = """
    UPDATE users AS u
    SET last_login = now(),
        settings = jsonb_set(u.settings, '{visits}', to_jsonb(coalesce((u.settings->>'visits')::int, 0) + 1))
    WHERE u.id = $1
    RETURNING u.settings::text
"""
TOUCH_SESSION = "UPDATE sessions SET data = jsonb_build_object('seen', $2::int) WHERE id = $1"
UPSERT_SESSION = """
    INSERT INTO sessions (id, user_id, data) VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = now() + interval '30 days'
"""
DELETE_SESSION = "DELETE FROM sessions WHERE id = $1"

EDIT_PROFILE = """
    UPDATE users
    SET credit = credit + 1, tags = $2, settings = settings || jsonb_build_object('theme', $3::text)
    WHERE id = $1
    RETURNING credit, settings::text
"""
LOCK_USERS = "SELECT id, email FROM users WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE"
SET_EMAIL = "UPDATE users SET email = $2 WHERE id = $1"
TAKE_FEE = "UPDATE users SET credit = credit - 1000 WHERE id = $1"

INSERT_EVENT = "INSERT INTO events (request_id, user_id, kind, payload) VALUES ($1, $2, 'checkout', $3)"
