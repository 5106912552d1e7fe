"""Connections to PostgreSQL servers, lent to sessions.

dial         connect, and encrypt
connection   one server connection: login, then bytes to whoever it is lent to
pool         who gets which connection, first come first served
exchange     simple queries outside any session
keepalive    notice peers that are gone without a word
"""
