"""Proof that both sides hold the same rows, while writes go on.

digest      the SQL that counts and hashes, on either side; pure
ranges      how a comparison narrows down, and what counts as a difference; pure
comparison  one table
copies      one table without a key
verifier    all tables; repair; the stored result
report      what was found; pure
"""
