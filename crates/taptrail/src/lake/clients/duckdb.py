"""Runs questions in DuckDB's Python module: a JSON object on standard input, rows on standard output."""
import datetime
import json
import sys

import duckdb


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


asked = json.load(sys.stdin)
session = duckdb.connect()
for question in asked["questions"]:
    for statement in question["before"]:
        session.execute(statement)
    for row in session.execute(question["query"]).fetchall():
        print(json.dumps([plain(value) for value in row]))
    print("end", flush=True)
