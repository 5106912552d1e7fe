"""What the proxy knows about the databases, read from the clusters.

model     the values: Catalog, Table, Relation, ForeignKey
reader    fills them, in one snapshot
queries   the SQL of the reader
bounds    conditions over keys: is a row within a range
"""
