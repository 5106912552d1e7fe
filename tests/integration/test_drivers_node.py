"""node-postgres through the proxy, over a pool, with named statements and in pipelines of its own."""

# ruff: noqa: E501 (the script of another language)

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.through import Crossing

PACKAGES = ("pg@8", "pg-cursor@2", "pg-copy-streams@7")
SCRIPT = r"""
const assert = require('node:assert/strict')
const { Client, Pool, Query } = require('pg')
const Cursor = require('pg-cursor')
const { from, to } = require('pg-copy-streams')
const { Readable } = require('node:stream')
const { pipeline } = require('node:stream/promises')

async function statements(pool) {
  const made = await pool.query(
    'INSERT INTO account (email, tags, attributes) VALUES ($1, $2, $3) RETURNING *, id AS again',
    ['a@x', ['p', null], { k: [1, 2] }])
  assert.equal(made.command, 'INSERT')
  assert.equal(made.rowCount, 1)
  assert.deepEqual(made.fields.map(f => f.name).slice(-2), ['created', 'again'])
  assert.deepEqual([made.rows[0].tags, made.rows[0].attributes], [['p', null], { k: [1, 2] }])
  const named = { name: 'by mail', text: 'UPDATE account SET name = $1 WHERE email = $2 RETURNING name' }
  for (let n = 0; n < 30; n++) {
    const changed = await pool.query({ ...named, values: ['n' + n, 'a@x'] })
    assert.deepEqual([changed.command, changed.rows], ['UPDATE', [{ name: 'n' + n }]])
  }
  const many = await pool.query("INSERT INTO account (email) VALUES ('b@x'); SELECT count(*)::int AS n FROM account")
  assert.deepEqual(many.map(r => r.command), ['INSERT', 'SELECT'])
  assert.equal(many[1].rows[0].n, 2)
  const wide = await pool.query({ text: 'DELETE FROM account WHERE email = $1 RETURNING id, id', values: ['b@x'], rowMode: 'array' })
  assert.equal(wide.rows[0].length, 2)
  assert.equal((await pool.query('')).rows.length, 0)
}

async function errors(pool) {
  const text = '/* ü */ UPDATE account SET nope = $1'
  await assert.rejects(pool.query(text, [1]), { code: '42703', position: String(text.indexOf('nope') + 1) })
  await assert.rejects(pool.query({ name: 'wrong', text: 'SELEC 1' }), { code: '42601', position: '1' })
  await assert.rejects(pool.query("INSERT INTO account (email) VALUES ('a@x')"), { code: '23505', constraint: 'account_email_key' })
}

async function transactions(pool) {
  const client = await pool.connect()
  await client.query('BEGIN')
  const { rows: [{ id }] } = await client.query("INSERT INTO account (email) VALUES ('t@x') RETURNING id")
  await client.query('SAVEPOINT s')
  await assert.rejects(client.query('INSERT INTO entry VALUES ($1, 1, 0)', [id]), { code: '23514' })
  await client.query('ROLLBACK TO s')
  await client.query('INSERT INTO entry VALUES ($1, 1, 5)', [id])
  await client.query('COMMIT')
  await client.query('BEGIN; DELETE FROM entry')
  await client.query('ROLLBACK')
  client.release()
  assert.equal((await pool.query('SELECT amount FROM entry')).rows[0].amount, '5.00')
}

async function load(pool) {
  await Promise.all(Array.from({ length: 400 }, (_, n) => pool.query(
    { name: 'insert', text: 'INSERT INTO account (email) VALUES ($1) RETURNING id', values: [n + '@load'] })))
  const client = await pool.connect()
  const cursor = client.query(new Cursor('SELECT id FROM account ORDER BY id'))
  let seen = 0
  for (let rows = await cursor.read(60); rows.length; rows = await cursor.read(60)) seen += rows.length
  await cursor.close()
  assert.equal(seen, 402)
  const early = client.query(new Cursor('UPDATE account SET balance = 1 RETURNING id'))
  assert.equal((await early.read(5)).length, 5)
  await early.close()
  client.release()
  assert.equal((await pool.query('SELECT count(*)::int AS n FROM account WHERE balance = 1')).rows[0].n, 402)
}

async function listening(url) {
  const client = new Client(url)
  await client.connect()
  await client.query('LISTEN news')
  const heard = new Promise(resolve => client.once('notification', resolve))
  await client.query("SELECT pg_notify('news', 'hello')")
  assert.equal((await heard).payload, 'hello')
  await client.end()
}

async function copies(pool) {
  const client = await pool.connect()
  const lines = Array.from({ length: 500 }, (_, n) => 'c' + n + '@node\n')
  await pipeline(Readable.from(lines), client.query(from('COPY account (email) FROM STDIN')))
  let size = 0
  for await (const part of client.query(to("COPY (SELECT email FROM account WHERE email LIKE 'c%@node') TO STDOUT"))) {
    size += part.toString().split('\n').length - 1
  }
  assert.equal(size, 500)
  await assert.rejects(pipeline(Readable.from(lines), client.query(from('COPY account (email) FROM STDIN'))), { code: '23505' })
  client.release()
}

async function cancels(pool, url) {
  const client = await pool.connect()
  const query = new Query('SELECT pg_sleep(71)')
  const ended = new Promise(resolve => query.once('error', resolve))
  client.query(query)
  const seen = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(71)' AND state = 'active'"
  while (!(await pool.query(seen)).rowCount);
  new Client(url).cancel(client, query)
  assert.equal((await ended).code, '57014')
  assert.equal((await client.query('SELECT 7 AS n')).rows[0].n, 7)
  client.release()
}

async function reconnects(pool) {
  pool.on('error', () => {})
  const lost = await pool.connect()
  lost.on('error', () => {})
  await assert.rejects(lost.query('SELECT pg_terminate_backend(pg_backend_pid())'))
  lost.release(true)
  for (let n = 0; n < 10; n++) {
    const again = await pool.connect()
    assert.equal((await again.query('SELECT $1::int AS n', [n])).rows[0].n, n)
    again.release(true)
  }
}

async function main(url) {
  const pool = new Pool({ connectionString: url, max: 8 })
  await statements(pool)
  await errors(pool)
  await transactions(pool)
  await load(pool)
  await copies(pool)
  await cancels(pool, url)
  await listening(url)
  await reconnects(pool)
  await pool.end()
  console.log('done')
}

main(process.argv[2])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which node finds the driver."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("install Node.js with npm")
    folder = tmp_path_factory.mktemp("node")
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--prefix",
        str(folder),
        *PACKAGES,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, cwd=folder)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {', '.join(PACKAGES)}: {done.stderr.strip()[-500:]}")
    return folder


async def test_ordinary_work(through: Crossing, folder: Path) -> None:
    script = folder / "work.js"
    script.write_text(SCRIPT)
    done = subprocess.run(
        ["node", str(script), through.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    await through.assert_equal({"account": "id", "entry": "account, number"})
